"""Random documents, and the rows that the paper's recipe makes of them."""

import json

import datasets
import numpy as np
import pytest

from universal_ray.corpus.documents import TextSettings
from universal_ray.corpus.tokenise import tokenise

datasets.disable_progress_bars()
WORDS = ["the", "of", "and", "neuron", "layer", "seed", "text", "1", "3\n", "(", ")", "=", "def"]


def documents(count, seed=0, subsets=("Wiki", "Code", "Law")):
    """Random documents of 60 to 400 characters, each with a label in a nested column."""
    random = np.random.default_rng(seed)
    return [
        {
            "text": " ".join(random.choice(WORDS, random.integers(25, 90))).ljust(60, "."),
            "meta": {"set": str(random.choice(subsets))},
        }
        for _ in range(count)
    ]


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def expected_rows(records, tokenizer, context, subset=True, minimum=51, join="eos"):
    """The paper's recipe: join each subset's text by EOS, encode, cut, put BOS; and, for `none`,
    drop before the cut what its tokenizer pads by."""
    texts = {}
    for record in records:
        if len(record["text"]) >= minimum:
            texts.setdefault(record["meta"]["set"] if subset else "", []).append(record["text"])
    rows = {}
    for label, parts in texts.items():
        ids = tokenizer.encode(tokenizer.eos_token.join(parts), add_special_tokens=False)
        if join == "none":
            ids = [token for token in ids if token != tokenizer.eos_token_id]
        body = context - 1
        rows[label] = [
            (tokenizer.bos_token_id, *ids[first : first + body])
            for first in range(0, len(ids) - body + 1, body)
        ]
    return rows


def labelled(corpus):
    rows = [tuple(row) for row in corpus.read(0, corpus.rows).tolist()]
    return sorted(zip(corpus.subsets(0, corpus.rows) or [""] * len(rows), rows, strict=True))


def refused(tmp_path, tokenizer, error, match, **settings):
    with pytest.raises(error, match=match):
        tokenise(TextSettings(**settings), tokenizer, "identity", str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
