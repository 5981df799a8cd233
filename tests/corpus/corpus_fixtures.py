"""A tokenizer and rows for the tests of this folder, whose conftest.py takes them from here."""


import numpy as np
import pytest
from helpers_tokenise import documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer():
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>", "<bos>"])
    trained.train_from_iterator([record["text"] for record in documents(50)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token="<|endoftext|>", bos_token="<bos>", model_max_length=8
    )


@pytest.fixture
def rows_BP():
    return np.random.default_rng(0).integers(0, 60_000, (53, 7))
