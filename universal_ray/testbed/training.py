"""Training of the embedded models: GPT-2s that differ in nothing but their seed.

`prepare` makes tokenizer and tokens once; `train_seed` trains one model, resumable at any point;
`export` puts finished models where the package carries them. Shapes: B rows, P positions.
"""

import hashlib
import json
import logging
import math
import os
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from universal_ray.errors import ConfigurationError, MissingError, NumericalError
from universal_ray.testbed import text
from universal_ray.testbed.settings import Products
from universal_ray.testbed.settings import Settings as Settings

log = logging.getLogger(__name__)

END = "<|endoftext|>"
HELD_OUT_ROWS = 4096
"""At most: the rows are shipped."""
LICENCES = "LICENSES-PACKAGES.txt"


def seed_number(name: str) -> int:
    """The seed that a model's name stands for."""
    return int.from_bytes(hashlib.sha256(f"seed {name}".encode()).digest()[:4], "little")


def _write(path: Path, data: bytes) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _check_ours(folder: Path, sign: str) -> None:
    """Raise ConfigurationError for a folder with files in it and none of this project's making:
    what is written there replaces folders of the same names.
    """
    if folder.exists() and not (folder / sign).exists() and any(folder.iterdir()):
        raise ConfigurationError(
            f"{folder} is not empty and holds no {sign}, so that its files are not this project's: "
            "choose another folder"
        )


def prepare(settings: Settings, output: Path, documents: list[text.Document]) -> Path:
    """Tokenizer, training tokens (one int16 stream) and held-out rows; made once per `output`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    data = output / "data"
    if (data / "manifest.json").exists():
        made = json.loads((data / "manifest.json").read_text())
        wanted = {
            "text_sha256": text.fingerprint(documents),
            "context": settings.context,
            "vocabulary": settings.vocabulary,
        }
        differing = [key for key, value in wanted.items() if made.get(key, value) != value]
        if differing:
            raise ConfigurationError(
                f"{data} was made with another {' and '.join(differing)}: choose another output"
            )
        return data
    if not data.exists():  # else a preparation that was cut short
        _check_ours(output, "data/manifest.json")
    data.mkdir(parents=True, exist_ok=True)
    training = [document for document in documents if not document.held_out]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in training), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=settings.context,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(data / "tokenizer")
    end = fast.eos_token_id
    stream = [np.array([*e.ids, end]) for e in tokenizer.encode_batch([d.text for d in training])]
    np.save(data / "training.npy", np.concatenate(stream).astype(np.int16))
    rows, subsets = held_out_rows(documents, tokenizer, end, settings.context)
    _save_rows(rows, subsets, data / "tokens")
    manifest = {
        "python": platform.python_version(),
        "versions": text.versions(settings.text),
        "text_sha256": text.fingerprint(documents),
        "training_tokens": sum(part.size for part in stream),
        "rows": len(rows),
        "tokens": int(rows.size),
        "context": settings.context,
        "vocabulary": settings.vocabulary,
        "tokenizer": hashlib.sha256(
            json.dumps(sorted(fast.get_vocab().items())).encode()
        ).hexdigest(),
        "subsets": {name: subsets.count(name) for name in sorted(set(subsets))},
    }
    (data / "tokens" / "manifest.json").write_text(json.dumps(manifest, indent=1))
    _write(data / "manifest.json", json.dumps(manifest, indent=1).encode())
    return data


def held_out_rows(
    documents: list[text.Document], tokenizer: Any, end: int, context: int
) -> tuple[np.ndarray, list[str]]:
    """Rows of `context` ids, begin-of-text first, each from one subset, in seeded order.

    The first HELD_OUT_ROWS of them where the text has more.
    """
    rows, labels = [], []
    held_out = [document for document in documents if document.held_out]
    for subset in sorted({document.subset for document in held_out}):
        texts = [document.text for document in held_out if document.subset == subset]
        stream = np.concatenate([[*e.ids, end] for e in tokenizer.encode_batch(texts)])
        whole = len(stream) // (context - 1)
        body = stream[: whole * (context - 1)].reshape(whole, context - 1)
        rows.append(np.insert(body, 0, end, axis=1))
        labels += [subset] * whole
    order = np.random.default_rng(0).permutation(len(labels))[:HELD_OUT_ROWS]
    return np.concatenate(rows)[order], [labels[i] for i in order]


def _save_rows(rows_BP: np.ndarray, subsets: list[str], path: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("uint16"), length=rows_BP.shape[1]),
            "subset": datasets.Value("string"),
        }
    )
    columns = {"tokens": list(rows_BP.astype(np.uint16)), "subset": subsets}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(path))


def build(settings: Settings, device: str) -> Any:
    """A new GPT2LMHeadModel from the current random state."""
    from transformers import GPT2Config, GPT2LMHeadModel

    # On a CPU torch's fused half-precision attention is the slowest way back through it (measured:
    # five times the plain products).
    attention: dict[str, Any] = {"attn_implementation": "eager" if device == "cpu" else "sdpa"}
    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_positions=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        activation_function="gelu_pytorch_tanh",  # the fused form of gelu_new
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        bos_token_id=0,
        eos_token_id=0,
        **attention,
    )
    model: Any = GPT2LMHeadModel(config)
    return model.to(device)


def optimizer_of(model: Any, settings: Settings) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)


def rate(step: int, settings: Settings) -> float:
    """Learning rate of a step: linear warm-up, then a cosine to zero."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def batch_rows(stream: np.ndarray, seed: int, step: int, settings: Settings) -> torch.Tensor:
    """The rows of one step, int64 [B, P + 1]: decided by seed and step, so a resumed run agrees."""
    generator = np.random.default_rng([seed, step])
    starts = generator.integers(0, len(stream) - settings.context, settings.batch)
    rows = stream[starts[:, None] + np.arange(settings.context)]
    return torch.from_numpy(np.insert(rows, 0, 0, axis=1).astype(np.int64))


def loss_function(model: Any, settings: Settings, device: str) -> Any:
    """Mean next-token loss in nats of rows [B, P + 1]."""
    halved = settings.products is Products.bfloat16

    def loss(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=halved):
            hidden = model.transformer(rows[:, :-1]).last_hidden_state
            logits = model.lm_head(hidden)
        return torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), rows[:, 1:].flatten()
        )

    return torch.compile(loss) if settings.compiled else loss


@torch.no_grad()
def held_out_loss(model: Any, data: Path, rows: int = 512) -> float:
    """Mean next-token loss in nats over held-out rows, in float32."""
    import datasets

    tokens = np.array(datasets.load_from_disk(str(data / "tokens"))[:rows]["tokens"])
    rows_BP = torch.from_numpy(tokens.astype(np.int64)).to(next(model.parameters()).device)
    model.eval()
    total = 0.0
    for part in rows_BP.split(64):
        total += float(model(part, labels=part, use_cache=False).loss) * len(part)
    model.train()
    return total / len(rows_BP)


def save_model(model: Any, data: Path, folder: Path) -> None:
    """An ordinary Hugging Face directory: config, float16 safetensors, tokenizer."""
    from transformers import GPT2LMHeadModel

    copy = GPT2LMHeadModel(model.config)
    copy.load_state_dict(model.state_dict())
    copy.config.activation_function = "gelu_new"
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    copy.half().save_pretrained(temporary)
    shutil.copytree(data / "tokenizer", temporary, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def train_seed(settings: Settings, name: str, output: Path, device: str = "cpu") -> dict[str, Any]:
    """Train one model to the end and return its record; goes on from its last checkpoint.

    Writes `output/<name>/` (the model), `output/<name>.json` (the record) and, on the way,
    `output/<name>.pt`. Raises MissingError before `prepare`, NumericalError if training diverges.
    """
    data = output / "data"
    if not (data / "manifest.json").exists():
        raise MissingError(f"{data} holds no training tokens: prepare them first")
    record_path, checkpoint = output / f"{name}.json", output / f"{name}.pt"
    described = asdict(settings)
    if record_path.exists():
        record: dict[str, Any] = json.loads(record_path.read_text())
        if record["settings"] == json.loads(json.dumps(described)):
            return record
    stream = np.load(data / "training.npy", mmap_mode="r")
    seed = seed_number(name)
    torch.manual_seed(seed)
    model = build(settings, device)
    optimizer = optimizer_of(model, settings)
    start, seconds, curve = 0, 0.0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        before, free = json.loads(state["settings"]), {"keep", "checkpoint_every"}
        differing = [k for k, v in before.items() if k not in free and described[k] != v]
        if differing:
            raise ConfigurationError(
                f"{checkpoint} was trained with another {' and '.join(differing)}: set it back or "
                "choose another output"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds, curve = state["step"], state["seconds"], state["curve"]
        log.info("seed %s goes on at step %d", name, start)
    loss_of = loss_function(model, settings, device)
    every = max(1, settings.steps // 200)
    since = time.monotonic()
    for step in range(start, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, settings)
        torch.manual_seed(seed << 32 | step)  # dropout, wherever the training is taken up again
        loss = loss_of(batch_rows(stream, seed, step, settings).to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % every == 0 or step + 1 == settings.steps:
            curve.append([step, round(loss.item(), 4)])
            if not math.isfinite(curve[-1][1]):
                raise NumericalError(f"seed {name} diverged at step {step}: lower learning_rate")
        done = step + 1
        if done in settings.keep:
            save_model(model, data, output / f"{name}-step{done}")
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            now = time.monotonic()
            seconds, since = seconds + now - since, now
            state = {
                "settings": json.dumps(described), "step": done, "seconds": seconds,
                "curve": curve, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            }
            torch.save(state, output / f".{name}.pt")
            (output / f".{name}.pt").replace(checkpoint)
            log.info("seed %s: step %d of %d, loss %.3f", name, done, settings.steps, curve[-1][1])
    save_model(model, data, output / name)
    manifest = json.loads((data / "manifest.json").read_text())
    record = {
        "name": name,
        "seed": seed,
        "settings": described,
        "python": manifest["python"],
        "text_sha256": manifest["text_sha256"],
        "tokens_seen": settings.steps * settings.batch * settings.context,
        "held_out_loss": round(held_out_loss(model, data), 4),
        "seconds": round(seconds),
        "device": device,
        "torch": torch.__version__,
        "loss_curve": curve,
    }
    _write(record_path, json.dumps(record).encode())
    return record


def export(output: Path, names: list[str], package: Path) -> None:
    """Copy finished models, held-out tokens and the record of their training to `package`.

    Beside them the licences of the packages whose text that is. Raises ConfigurationError for a
    folder with files of others.
    """
    _check_ours(package, "training.json")
    records = [json.loads((output / f"{name}.json").read_text()) for name in names]
    for source in [*names, "data/tokens"]:
        target = package / Path(source).name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(output / source, target)
    manifest = json.loads((output / "data" / "manifest.json").read_text())
    content = {"text": manifest, "seeds": records}
    packages = [name for name in manifest["versions"] if name != "python"]
    _write(package / LICENCES, "".join(map(text.licence, packages)).encode())
    _write(package / "training.json", json.dumps(content, indent=1).encode())
