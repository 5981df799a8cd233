"""Matrices given to `correlate`: a run's tables of the same activations, and float64's truth."""

import itertools

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from helpers_study import CONTEXT, make
from helpers_whole import make_inputs, whole_study

import universal_ray as ur
from universal_ray.config.study import Exclusion, Pairs
from universal_ray.errors import ConfigurationError, NumericalError
from universal_ray.maths.moments.rotation import rotation
from universal_ray.maths.moments.shift import partners
from universal_ray.models.capture import Capture
from universal_ray.models.source import resolve
from universal_ray.planning.capacity import GIB
from universal_ray.stages.correlations.batches import Given
from universal_ray.stages.correlations.reading import MOST_GROUPS, Reading
from universal_ray.stages.correlations.schemas import NO_PARTNER

GROUPS = {"unit": 120, "batch": 50, "fold": 2}
"""Of 1000 tokens: four blocks, and a short unit after them."""
CONSTANT = "constant over the kept tokens"


def matrices(tokens=1000, units=12, others=8, seed=0):
    """Two of float64, whose means are a million deviations away; some columns share causes."""
    random = np.random.default_rng(seed)
    x_TN = random.standard_normal((tokens, units))
    y_TM = random.standard_normal((tokens, others)) + x_TN[:, :others] * np.linspace(0, 3, others)
    return x_TN + 1e6, y_TM[:, ::-1] * 100 - 1e8


def same(found, expected):
    for frame, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(frame, other, check_exact=True)


# Beside a run


@pytest.fixture(scope="module")
def run(once):
    """A finished run all of whose tokens count."""

    def finish(folder):
        models, tokens = make_inputs(folder)
        study = whole_study(folder / "run", models, tokens, models__pairs=Pairs.all,
                            corpus__exclude=Exclusion.none)  # fmt: skip
        make(study)

    return once("run-beside-arrays", finish)


@pytest.fixture(scope="module")
def activations(run):
    """Of both models, in the batches that the run has read."""
    tokens_BP = torch.tensor(datasets.load_from_disk(str(run / "tokens"))["tokens"])
    found = {}
    for name in "ab":
        capture, batches = Capture(resolve(str(run / name))), []
        for rows_BP in tokens_BP.split(5):
            layers = []
            capture.read(rows_BP, lambda _, layer, x_TD, layers=layers: layers.append(x_TD.clone()))
            batches.append(torch.cat(layers, 1))
        found[name] = batches
    return found


@pytest.mark.parametrize("given", ["matrices", "lists", "pairs"])
def test_the_frames_are_those_of_a_run_on_the_same_activations(run, activations, given):
    finished = ur.open(run / "run")
    identities = {each["model"]: each["identity"] for each in finished.summary["models"]}
    bits = finished.record["bits"]
    a, b = activations["a"], activations["b"]
    x, y = {
        "matrices": (torch.cat(a).numpy(), torch.cat(b)),
        "lists": (a, b),
        "pairs": (zip(a, b, strict=True), None),
    }[given]
    found = ur.correlate(
        x, y, layers=2, names=("a", "b"), identities=(identities["a"], identities["b"]),
        rotations=2, threshold=0.02, unit=bits["units.tokens"], batch=bits["units.batch"],
        fold=bits["units.fold"],
    )  # fmt: skip
    expected = [finished.table(name).to_pandas() for name in ("neurons", "pairs")]
    for frame, other in zip(found, expected, strict=True):
        for name, told in (("site", "mlp_post"), ("unit_kind", "neuron")):
            assert frame.pop(name).isna().all() and set(other.pop(name)) == {told}
    same(found, expected)
    assert found.pairs["n"].unique().tolist() == [12 * CONTEXT]
    assert not found.pairs["corr_se"].isna().all()


# Beside float64


def test_correlations_baseline_and_errors_are_those_of_float64():
    x_TN, y_TM = matrices()
    neurons, pairs = ur.correlate(x_TN, y_TM, layers=(3, 2), seed=7, rotations=3, **GROUPS)
    true_NM = np.corrcoef(x_TN.T, y_TM.T)[:12, 12:]
    blocks = np.split(np.arange(1000), [240, 480, 720, 960])
    for model, other, r, here, there, layers in (
        ("x", "y", true_NM, x_TN, y_TM, 2), ("y", "x", true_NM.T, y_TM, x_TN, 3),
    ):  # fmt: skip
        table = pairs[pairs["model"] == model].reset_index()
        width = r.shape[1] // layers
        assert (table["other"] == other).all()
        np.testing.assert_allclose(table["max_corr"], r.max(1), atol=1e-6)
        np.testing.assert_allclose(table["min_corr"], r.min(1), atol=1e-6)
        partner = table["max_layer"] * width + table["max_neuron"]
        assert partner.tolist() == r.argmax(1).tolist()
        mutual = r.argmax(0)[r.argmax(1)] == np.arange(len(r))
        assert table["mutual"].tolist() == mutual.tolist()
        best = np.full((3, len(r)), -np.inf)
        for layer, draw in itertools.product(range(layers), range(3)):
            turn = rotation(
                "gaussian", seed=7, identity=other, layer=layer, draw=draw, width=width
            ).numpy()
            y = there[:, layer * width : (layer + 1) * width] @ turn.T
            best[draw] = np.maximum(
                best[draw], np.corrcoef(here.T, y.T)[: len(r), len(r) :].max(1)
            )
        np.testing.assert_allclose(np.stack(table["baseline_draws"]), best.T, atol=1e-6)
        mine = neurons[neurons["model"] == model]
        np.testing.assert_allclose(mine["excess_corr"], r.max(1) - best.mean(0), atol=1e-6)
        for unit in range(3):
            a, b = here[:, unit], there[:, r[unit].argmax()]
            left = np.array([np.corrcoef(*np.delete([a, b], each, 1))[0, 1] for each in blocks])
            h = 1000 / np.array([len(each) for each in blocks])
            whole = r[unit].max()
            estimate = 5 * whole - ((1 - 1 / h) * left).sum()
            error = np.sqrt((((h * whole - (h - 1) * left) - estimate) ** 2 / (h - 1)).mean())
            assert table["corr_se"][unit] == pytest.approx(error, rel=1e-3)


# However they come


def ragged(matrix, sizes=(7, 300, 1, 0, 500)):
    ends = np.cumsum(sizes)
    return [matrix[start:stop] for start, stop in zip([0, *ends], [*ends, None], strict=True)]


@pytest.mark.thorough
def test_no_bit_depends_on_how_tokens_come_or_on_memory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    x, y = matrices()
    readings = []
    pieces = Given.pieces

    def counted(self, *arguments):
        readings[-1] += 1
        return pieces(self, *arguments)

    monkeypatch.setattr(Given, "pieces", counted)

    def made(*given, **options):
        readings.append(0)
        return ur.correlate(*given, layers=(3, 4), **GROUPS, **options)

    expected = made(x, y)
    for given in (
        (torch.from_numpy(x).requires_grad_(), y),
        (ragged(x), iter(ragged(y, (999,)))),
        (list(zip(ragged(x), ragged(y), strict=True)),),
        (pair for pair in [iter(zip(ragged(x), ragged(y), strict=True))]),
    ):
        same(made(*given), expected)
    assert readings == [1] * 5
    # As little as makes the tokens be read again: for each layer, then twice for each.
    for bytes_each, times in ((40e3, 1 + 3), (36.8e3, 1 + 3 * 2)):
        same(made(x, ragged(y), memory=bytes_each / GIB), expected)
        assert readings[-1] == times
    with pytest.raises(ConfigurationError, match=r"x and y take .* and may take .*: raise memory$"):
        made(x, y, memory=10e3 / GIB)
    with pytest.raises(ConfigurationError, match="or give what can be read again, layer by layer"):
        made(iter([x]), y, memory=40e3 / GIB)
    same(ur.correlate(y, x, layers=(4, 3), names=("y", "x"), **GROUPS),
         [frame.sort_values("model", ascending=False, kind="stable").reset_index(drop=True)
          for frame in expected])  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_what_a_caller_has_set_of_torch_or_left_open_changes_no_bit():
    x, y = (torch.from_numpy(each).float() for each in matrices())
    expected = ur.correlate(x, y, unit=500)

    def careless():
        with torch.autocast("cpu", torch.bfloat16):
            yield from zip(x.split(100), y.split(100), strict=True)

    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    try:
        found = ur.correlate(careless(), unit=500, fold=2)
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
    same(found, expected)


@pytest.mark.parametrize("memory", [None, 0.0006])
def test_the_baseline_of_other_tokens_is_that_of_float64(memory):
    x_TN, y_TM = matrices()
    given = {**GROUPS, "layers": (3, 2), "rotations": 2, "seed": 5, "kind": "shifted"}
    neurons, pairs = ur.correlate(x_TN, y_TM, memory=memory, **given)
    drawn = {"x": [], "y": []}
    for draw in range(2):
        order, at = [], 0
        while at < 1000:  # a batch of a unit
            many = min(50, 120 - at % 120, 1000 - at)
            kept_BP = torch.ones(many, 1, dtype=torch.bool)
            order.append(at + partners(kept_BP, f"5.{draw}"))
            at += many
        moved_T = torch.cat(order).numpy()
        assert (moved_T != np.arange(1000)).all()
        r_NM = np.corrcoef(x_TN.T, y_TM[moved_T].T)[:12, 12:]
        drawn["x"].append(r_NM.max(1))
        drawn["y"].append(r_NM.max(0))
    for model, best in drawn.items():
        table = pairs[pairs["model"] == model]
        found = np.stack(table["baseline_draws"])
        np.testing.assert_allclose(found, np.stack(best, 1), atol=1e-6)
        excess = neurons[neurons["model"] == model]["excess_corr"]
        np.testing.assert_allclose(excess, table["max_corr"] - found.mean(1), atol=1e-9)


def test_of_tokens_that_nobody_has_counted_the_groups_stay_few(monkeypatch):
    x, y = matrices(70_000, 3, 2)
    held = []
    gathered = Reading.gathered

    def kept(self, *arguments):
        held.extend(gathered(self, *arguments))
        return held

    monkeypatch.setattr(Reading, "gathered", kept)
    found = ur.correlate(zip(ragged(x), ragged(y), strict=True))
    monkeypatch.undo()
    sizes = [float(sums["n"]) for group in held for name, sums in group.items() if name[1] == 0]
    assert len(held) <= MOST_GROUPS and max(sizes) == 8 * 1024 and sum(sizes) == 3 * 70_000
    expected = ur.correlate(x, y)
    assert found.pairs["n"].tolist() == [70_000] * 5
    np.testing.assert_allclose(found.pairs["max_corr"], expected.pairs["max_corr"], atol=1e-6)
    np.testing.assert_allclose(found.pairs["corr_se"], expected.pairs["corr_se"], rtol=0.8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_floats_are_what_they_are(dtype):
    x, y = (torch.from_numpy(each - each.mean(0)).to(dtype) for each in matrices())
    found = ur.correlate(x, y).pairs["max_corr"][:12]
    true_NM = np.corrcoef(x.double().numpy().T, y.double().numpy().T)[:12, 12:]
    np.testing.assert_allclose(found, true_NM.max(1), atol=1e-6)


# What has no correlation


def test_what_has_no_correlation_is_null_with_its_reason():
    x, y = matrices()
    x[:, 3] = 5.0
    neurons, pairs = ur.correlate(x, y)
    assert neurons["null_reason"].dropna().to_dict() == {3: CONSTANT}
    row = pairs.loc[3]
    assert row[["max_corr", "top_corr", "hist", "baseline_corr", "mutual"]].isna().all()
    assert (pairs["max_neuron"][12:] != 3).all()
    alone = ur.correlate(x, np.ones_like(y)).pairs["null_reason"]
    assert alone.tolist() == [NO_PARTNER] * 3 + [CONSTANT] + [NO_PARTNER] * 8 + [CONSTANT] * 8
    assert set(ur.correlate(x[:1], y[:1]).pairs["null_reason"]) == {CONSTANT}
    one = ur.correlate(x, y, unit=1000, rotations=1).pairs
    assert one["corr_se"].isna().all() and one["baseline_se"].isna().all()
    assert one["max_corr"].notna().sum() == 19


@pytest.mark.parametrize("tokens", [1, 2, 3, 9, 31])
def test_few_tokens_are_beside_others_too(tokens):
    x, _ = matrices()
    draws = ur.correlate(x[:tokens], x[:tokens].copy(), kind="shifted", rotations=2).pairs
    assert draws["max_corr"].isna().all() if tokens == 1 else (draws["max_corr"] > 0.999).all()
    own = np.stack(draws["baseline_draws"].dropna())[:, 0] if tokens > 3 else np.zeros(1)
    assert (own < 0.999).any()


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda x, y: (x[1:], y), {}, r"x has 999 tokens and y 1,000: give both the same tokens"),
        (lambda x, y: (iter([x]), iter([y[:500]])), {"unit": 700},
         r"y ends after 500 tokens and x goes on: give"),
        (lambda x, y: ([(x, y[1:])],), {}, "a pair of batches has 1,000 tokens of x and 999 of y"),
        (lambda x, y: (x[:0], y[:0]), {}, "x and y hold no tokens: give at least one"),
        (lambda x, y: (iter([]), iter([])), {}, "x and y hold no tokens"),
        (lambda x, y: (x[:, 0], y), {}, r"x has the shape \(1000,\): give tokens × units"),
        (lambda x, y: (x, y[:, :0]), {}, r"y has the shape \(1000, 0\)"),
        (lambda x, y: (x.astype(int), y), {}, "x holds int64: give floats"),
        (lambda x, y: (x, torch.from_numpy(y) > 0), {}, "y holds torch.bool: give floats"),
        (lambda x, y: ([x, x[:, 1:]], y), {}, "x has batches of 12 and of 11 units"),
        (lambda x, y: (iter([x, x[:, 1:]]), y), {}, "x has batches of 12 and of 11 units"),
        (lambda x, y: (np.ma.masked_greater(x, 1e6), y), {}, "x is masked or sparse"),
        (lambda x, y: (torch.from_numpy(x).to_sparse(), y), {}, "x is masked or sparse"),
        (lambda x, y: (x.tolist(), y), {}, "x gives a batch of type list: give matrices"),
        (lambda x, y: ("x.npy", y), {}, "x is of type str: give a matrix"),
        (lambda x, y: (x,), {}, "x and y are one matrix: give two, or an iterable of pairs"),
        (lambda x, y: ([x, x],), {}, "x and y come as ndarray: give pairs of batches"),
        (lambda x, y: (x, y), {"layers": 5}, "the 12 units of x are not those of 5 layers"),
        (lambda x, y: (x, y), {"layers": (3, 3)}, "the 8 units of y are not those of 3 layers"),
        (lambda x, y: (x, y), {"layers": [1, 2, 4]}, r"layers are \[1, 2, 4\]: give one num"),
        (lambda x, y: (x, y), {"unit": 2.5}, "unit is 2.5: give a whole number"),
        (lambda x, y: (x, y), {"names": ("a", "a")}, "a, a are not two names"),
        (lambda x, y: (x, y), {"rotations": 0}, "rotations is 0: give a number of at least 1"),
        (lambda x, y: (x, y), {"kind": "gausian"}, "kind=gausian is none: did you mean gaussian"),
        (lambda x, y: (x, y), {"policy": "fp8"}, "policy=fp8 is none: choose from fp32, fp16"),
        (lambda x, y: (x, y), {"device": "gpu"}, "device=gpu is none"),
        (lambda x, y: (x, y), {"threshold": float("nan")}, "threshold is nan"),
        (lambda x, y: (x, y), {"kind": "shifted", "batch": 1},
         "beside others of their batch, which is of one: raise unit and batch"),
        (lambda x, y: (x, y), {"unit": 5, "batch": 10}, r"batch \(10\) is larger than unit \(5\)"),
        (lambda x, y: (iter([x]), iter([y])), {"unit": 10, "fold": 1, "memory": 90e3 / GIB},
         "the sums of more than .* blocks of tokens do not fit memory: give a larger unit or fold"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(change, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        ur.correlate(*change(*matrices()), **options)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_token(wrong):
    x, y = matrices()
    y[700, 5] = wrong
    for given in ((x, y), (iter(ragged(x)), iter(ragged(y, (999,))))):
        with pytest.raises(NumericalError, match="y is not finite at token 700, unit 5: leave"):
            ur.correlate(*given, unit=90)
