"""The experiments, shrunk, on a stand-in of the hub: models under their real names and revisions,
in the forms that the real ones have, and the file of the paper's text.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
import torch
from helpers_hub import Fault, Hub, lead, offline, served, unwaited
from helpers_jobs import enter
from helpers_models import TEXT, make_tokenizer
from helpers_segments import make_other
from helpers_study import make
from helpers_tiers import tiers
from tokenizers import normalizers
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from universal_ray.cli.study import compose
from universal_ray.cli.study import make as plan
from universal_ray.config.study import Study, model_groups
from universal_ray.planning.capacity import size
from universal_ray.report.screen import console
from universal_ray.storage import finished
from universal_ray.storage.finished import CORRELATIONS, PROFILE, REPORT, ROLES
from universal_ray.storage.record import read_record

ROOT = Path(__file__).parents[2]
CONTEXT, LAYERS, WIDTH, VOCABULARY = 32, 2, 8, 304
PILE, COMMIT = "datasets/EleutherAI/pile_val_test@main", "3c74ceb" + "0" * 33
PAIRS = {"gpt2_small": 4, "gpt2_medium": 4, "gpt2_medium_all": 10, "pythia_160m": 3,
         "pythia_410m": 8, "cross_tokenizer": 4, "sae_seeds": 3}  # fmt: skip
"""Pairs of models of each that asks the hub; `persistence` is run in test_revisions.py,
`tokenizers` in test_tokenizers_apart.py, `latents` in test_latents_study.py."""
FIRST, LAST = "0", "143000"
FOLLOWED = {"polypythias_14m": None, "polypythias_31m": [FIRST, LAST],
            "polypythias_70m": [FIRST, LAST], "polypythias_160m": [FIRST, LAST]}  # fmt: skip
"""Experiments of models that are followed, and the steps that are tried: by default their own."""
CODERS = "dwightware4/sae-pythia-160m-32k-3seeds"
WEIGHTS = ("*.safetensors", "*.bin")


@cache
def names_of(experiment: str) -> list[str]:
    study = compose(f"experiment={experiment}")
    named = [study.models.tokenizer] if study.models.tokenizer else []
    return [name for group in model_groups(study.models) for name in group] + named


def stanford(folder: Path, seed: int) -> Path:
    """As the seeds of Mistral: .bin alone, in half precision with masks; older tokenizer files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=300, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=2,
            initializer_range=0.2, bos_token_id=0, eos_token_id=0,
            scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True,
        ))  # fmt: skip
    state = {key: value.half() for key, value in model.state_dict().items()}
    mask = torch.tril(torch.ones(CONTEXT, CONTEXT, dtype=torch.uint8))[None, None]
    for layer in range(LAYERS):
        state[f"transformer.h.{layer}.attn.bias"] = mask
        state[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save(folder, model, {"pytorch_model.bin": state})
    make_tokenizer(folder)
    trained = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(trained["vocab"]))
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in trained["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    for beside in ("optimizer.pt", "scheduler.pt", "runs/events.out"):
        (folder / beside).parent.mkdir(exist_ok=True)
        (folder / beside).write_bytes(b"a state of training" * 5000)
    return folder


def pythia(folder: Path, seed: int, step: str = LAST) -> Path:
    """A padded vocabulary; seeds in parts, as .bin or as safetensors, most without a tokenizer.
    Those that are not trained have no biases.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(100 + seed + int(step))
        model = GPTNeoXForCausalLM(GPTNeoXConfig(
            vocab_size=VOCABULARY, max_position_embeddings=2 * CONTEXT, hidden_size=WIDTH,
            num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=4 * WIDTH,
            initializer_range=0.2, bos_token_id=0, eos_token_id=0,
        ))  # fmt: skip
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.0 if step == FIRST else 0.2)
    state = {key: value.half() for key, value in model.state_dict().items()}
    for layer in range(LAYERS):
        attention = f"gpt_neox.layers.{layer}.attention"
        state[f"{attention}.rotary_emb.inv_freq"] = torch.ones(2)
        state[f"{attention}.masked_bias"] = torch.tensor(-1e9)
    keys = sorted(state)
    halves = [{key: state[key] for key in keys[start::2]} for start in range(2)]
    whole, suffix = [("model", "safetensors"), ("pytorch_model", "bin")][seed % 2]
    if seed == 0:
        save(folder, model, {"model.safetensors": state, "pytorch_model.bin": state})
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.safetensors").write_bytes(b"of another program" * 5000)
    else:
        parts = {f"{whole}-{n:05}-of-00002.{suffix}": half for n, half in enumerate(halves, 1)}
        save(folder, model, parts)
        places = {key: name for name, each in parts.items() for key in each}
        index = json.dumps({"metadata": {}, "weight_map": places})
        (folder / f"{whole}.{suffix}.index.json").write_text(index)
        (folder / "adapter_model.safetensors").write_bytes(b"an adapter's" * 9000)
    if seed < 3:
        spaced = make_other(folder, TEXT, normalizer=normalizers.NFC())
        spaced.add_special_tokens({"additional_special_tokens": ["<|padding|>"]})
        spaced.add_tokens([" " * count for count in range(10, 1, -1)])
        spaced.save_pretrained(str(folder))
    return folder


def save(folder: Path, model: Any, files: dict[str, dict[str, torch.Tensor]]) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config))
    for name, state in files.items():
        if name.endswith(".bin"):
            torch.save(state, folder / name)
        else:
            save_file({key: value.clone().contiguous() for key, value in state.items()},
                      folder / name)  # fmt: skip


def sparsify(folder: Path, seed: int) -> None:
    """A sparse autoencoder in a folder that does not say what it reads."""
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(seed)
    weight_DC = torch.randn(40, WIDTH, generator=random)
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(
        json.dumps({"activation": "topk", "expansion_factor": 5, "normalize_decoder": True,
                    "num_latents": 40, "k": 4, "multi_topk": False, "skip_connection": False,
                    "transcode": False, "d_in": WIDTH})
    )  # fmt: skip
    save_file({"encoder.weight": weight_DC, "encoder.bias": torch.zeros(40),
               "W_dec": weight_DC.clone(), "b_dec": torch.zeros(WIDTH)},
              folder / "sae.safetensors")  # fmt: skip


def trained(study: Study, folder: Path) -> dict[str, Path]:
    """The models of a study at every step, by name."""
    return {
        name: pythia(folder / f"{seed}-{step}", seed, step)
        for step, names in zip(study.models.revisions, model_groups(study.models), strict=True)
        for seed, name in enumerate(names, 1)
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """By name and revision; the families share their seeds."""
    root = tmp_path_factory.mktemp("hub")
    gpt2 = [stanford(root / f"gpt2-{seed}", seed) for seed in range(5)]
    neox = [pythia(root / f"pythia-{seed}", seed) for seed in range(10)]
    found: dict[str, Path] = {}
    for experiment in ("gpt2_small", "gpt2_medium"):
        found |= dict(zip(names_of(experiment), gpt2, strict=True))
    found |= dict(zip(names_of("pythia_160m"), neox[:4], strict=False))
    found |= dict(zip(names_of("pythia_410m"), [*neox[1:], neox[0]], strict=True))
    for experiment in FOLLOWED:
        found[names_of(experiment)[-1]] = neox[0]  # for its tokenizer
    found |= dict(zip(names_of("cross_tokenizer"), [*gpt2[:2], *neox[:3]], strict=True))
    for seed in range(3):
        sparsify(root / "coders" / f"seed{seed}", seed)
    found[f"{CODERS}@main"] = root / "coders"
    text = root / "text"
    text.mkdir()
    (text / ".gitattributes").write_text("*.jsonl filter=lfs\n")
    generator = np.random.default_rng(0)
    words = [*TEXT.split(), *normalize("NFD", "naïve café").split(), "\n    "]
    with (text / "test.jsonl").open("w") as file:
        for number in range(300):
            meta = {"pile_set_name": ["Pile-CC", "ArXiv", "Github"][number % 3]}
            document = " ".join(generator.choice(words, 40))
            file.write(json.dumps({"text": document, "meta": meta}) + "\n")
    return {**found, PILE: text}


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    with served(files, **{PILE: COMMIT}) as running:
        running.large = 1 << 12
        lead(running.url, tmp_path / "cache", monkeypatch)
        yield running


def shrunk(experiment: str, files: dict[str, Path]) -> list[str]:
    size = (files[PILE] / "test.jsonl").stat().st_size
    more = [f"models.site=sae:{CODERS}/{{label}}:layers.1.mlp"] if experiment == "sae_seeds" else []
    return [
        *more, f"experiment={experiment}", "run.dir=run", "cluster.device=cpu", "cluster.workers=1",
        "cluster.threads=1", f"corpus.context={CONTEXT}", f"corpus.tokens={8 * CONTEXT}",
        f"corpus.text.bytes={size}", f"units.tokens={4 * CONTEXT}", f"units.batch={4 * CONTEXT}",
        "units.fold=1", "baseline.rotations=1", "universal.threshold=0.02", "taxonomy.topics=2",
        "taxonomy.unigram_ids=0", "taxonomy.unigram_occurrences=1", "taxonomy.minimum_support=5",
        f"roles.tokens={4 * CONTEXT}", "roles.sweep=[0.0]", "roles.candidates=1",
        "roles.controls=1", "roles.sets=1", "roles.paths=1",
    ]  # fmt: skip


def planned(study: Study, monkeypatch, capsys) -> str:
    """What the plan of its correlations says."""
    monkeypatch.setenv("COLUMNS", "9999")
    plan(study, CORRELATIONS, console(), dry=True)
    return capsys.readouterr().out


def loaded(*folders: Path) -> str:
    """How much the configurations and weights of models are."""
    kinds = ("config.json", "model*.safetensors", "pytorch_model*.bin")
    whole = "pytorch_model.bin" if (folders[0] / "onnx").exists() else ""  # twice there, read once
    return size(sum(path.stat().st_size for folder in folders for kind in kinds
                    for path in folder.glob(kind) if path.name != whole))  # fmt: skip


def cached(folder: Path, *patterns: str) -> set[str]:
    places = [each for pattern in patterns for each in (folder / "cache").rglob(pattern)]
    return {each.name for each in places if "snapshots" in each.parts and each.is_file()}


@pytest.mark.parametrize("experiment", tiers(PAIRS, ["gpt2_small"]))
def test_an_experiment_is_planned_fetched_and_run_offline(
    hub: Hub, files, tmp_path, monkeypatch, capsys, experiment
):
    options = shrunk(experiment, files)
    monkeypatch.chdir(tmp_path)
    study = compose(*options)
    if experiment in ("gpt2_small", "pythia_160m"):  # the forms of weights are those of all
        told = planned(study, monkeypatch, capsys)
        assert cached(tmp_path, *WEIGHTS, "test.jsonl") == set()
        (group,), text = model_groups(study.models), files[PILE] / "test.jsonl"
        assert (
            f"{loaded(*(files[name] for name in group))} of {len(group)} models, into the hub's "
            f"cache of every machine that computes; this one has 0 B of it; "
            f"{size(text.stat().st_size)} of text, into that of this machine"
        ) in told
    fetched = enter("deploy/prefetch.py", *options, folder=tmp_path)
    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout.endswith("pile_val_test@3c74ceb/test.jsonl: 300 documents\n")
    beside = {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "events.out"}
    assert not cached(tmp_path, "*") & beside and not cached(tmp_path, "onnx/*")
    offline(monkeypatch)
    hub.faults = [Fault("", "dropped")]
    store = make(study, CORRELATIONS)
    pairs = store.get_table("tables/pairs.parquet").select(["model", "other"]).to_pylist()
    assert len({frozenset(each.values()) for each in pairs}) == PAIRS[experiment]
    made_with = read_record(store)
    assert made_with is not None
    assert ("segments" in made_with["corpus"]) == (experiment == "cross_tokenizer")
    record = json.loads(store.get("corpus-256/manifest.json"))
    assert (record["source"]["commit"], record["documents"]) == (COMMIT, 300)
    assert set(record["subset_rows"]) == {"Pile-CC", "ArXiv", "Github"}


@pytest.mark.parametrize("experiment", tiers(FOLLOWED, []))
def test_seeds_are_followed_through_their_training(
    hub: Hub, files, tmp_path, monkeypatch, capsys, experiment
):
    options = shrunk(experiment, files)
    if (some := FOLLOWED[experiment]) is not None:
        options.append(f"models.revisions=[{','.join(some)}]")
    monkeypatch.chdir(tmp_path)
    study = compose(*options)
    steps, followed = study.models.revisions, trained(study, tmp_path)
    assert (steps[0], steps[-1]) == (FIRST, LAST) and len(followed) == 9 * len(steps)
    hub.repositories = {**files, **followed}
    told = planned(study, monkeypatch, capsys)
    assert f"{len(steps)} of each of these 9 models: {', '.join(steps)}" in told
    assert f"{8 * len(steps)}, both directions of each" in told
    assert f"{loaded(*followed.values())} of {len(followed)} models, into the hub's cache" in told
    fetched = enter("deploy/prefetch.py", *options, folder=tmp_path)
    assert fetched.returncode == 0, fetched.stderr
    assert [line.split(": ")[0] for line in fetched.stdout.splitlines()[:-1]] == [*followed]
    offline(monkeypatch)
    hub.faults = [Fault("", "dropped")]
    store = make(study, CORRELATIONS)
    pairs = store.get_table("tables/pairs.parquet").select(["model", "other"]).to_pylist()
    met = {frozenset(each.values()) for each in pairs}
    size_of = experiment.removeprefix("polypythias_")
    assert met == {
        frozenset((f"pythia-{size_of}-seed1@step{step}", f"pythia-{size_of}-seed{seed}@step{step}"))
        for step in steps for seed in range(2, 10)
    }
    (told_of,) = store.get_json("tables/summary.json")["followed"]
    assert told_of["model"] == f"pythia-{size_of}-seed1@step{{revision}}"
    assert told_of["revisions"] == steps and len(told_of["universal"]) == len(steps)
    assert None not in told_of["universal"]


@pytest.mark.thorough
def test_all_stages_of_an_experiment_run(hub, files, tmp_path, monkeypatch):
    """Two of its models, before and after training; a tokenizer by name, a vocabulary that is
    padded, weights in parts.
    """
    monkeypatch.chdir(tmp_path)
    study = compose(*shrunk("polypythias_14m", files), f"models.revisions=[{FIRST},{LAST}]")
    del study.models.compared[1:]
    hub.repositories = {**files, **trained(study, tmp_path)}
    store = make(study, CORRELATIONS, PROFILE, ROLES, REPORT)
    assert set(finished.stages(store)) == {CORRELATIONS, PROFILE, ROLES, REPORT}
    biases = {FIRST: set(), LAST: set()}
    for row in store.get_table("tables/neurons.parquet").to_pylist():
        biases[row["model"].removeprefix("pythia-14m-seed1@step")].add(row["input_bias"])
    assert biases[FIRST] == {0.0} and len(biases[LAST]) == LAYERS * 4 * WIDTH


def test_every_experiment_is_run_somewhere():
    every = {each.stem for each in (ROOT / "conf" / "experiment").glob("*.yaml")}
    assert every == {*PAIRS, *FOLLOWED, "latents", "persistence", "tokenizers"}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault("/config.json", status=429, headers={"Retry-After": "9999"}),
         "it answered 429, Too Many Requests and asks to wait 9999 s"),
        (Fault("/revision/checkpoint-400000", status=403, headers={"X-Error-Code": "GatedRepo"}),
         "it answered 403, Forbidden"),
        (Fault("", "dropped"), "check the network"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("job", tiers(["jobs/run.py", "deploy/prefetch.py"], ["jobs/run.py"]))
def test_what_the_hub_answers_is_one_sentence_of_a_command(
    hub, files, tmp_path, monkeypatch, job, fault, told
):
    unwaited(monkeypatch)
    hub.faults = [fault]
    more = ["dry_run=true"] if job == "jobs/run.py" else []
    ended = enter(job, *shrunk("gpt2_small", files), *more, folder=tmp_path)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("WARNING")]
    assert ended.returncode == 1
    (line,) = lines
    assert line.startswith("error: The hub ") and told in line


def test_a_model_that_asks_for_its_own_code_is_refused(hub, files, tmp_path):
    options = shrunk("gpt2_small", files)
    folder = tmp_path / "own"
    folder.mkdir()
    config = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    hub.repositories = {**files, "me/own@main": folder}
    options += ["models.compared=[me/own]", "dry_run=true"]
    ended = enter("jobs/run.py", *options, folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: Model 'me/own' asks for code of its own repository")
