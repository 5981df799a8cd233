"""What the correlations store, and where: sums, reduced models, reduced rows, tables.

Shapes: N neurons of a model, G groups of tokens (blocks, then trailing units), K draws of the
rotation, R rows (or columns) of a matrix of correlations, P pairs of neurons.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from universal_ray.maths.moments import rotation
from universal_ray.maths.moments.correlation import NeuronMoments
from universal_ray.maths.moments.row_summary import RowSummary
from universal_ray.models.site import Site
from universal_ray.planning.items import Item, Layout, Model, layer_file
from universal_ray.stages.inputs import Outline
from universal_ray.stages.sums import SUMS
from universal_ray.storage import artifacts, finished
from universal_ray.storage.artifacts import Artifact
from universal_ray.storage.store import Store

TOP = 50
"""Entries of the lists of best and worst partners."""

MOMENTS = Artifact(
    name="moments of neurons",
    version=1,
    depends_on=(SUMS, "baseline.rotations", "baseline.kind", "baseline.seed"),
)
CORRELATED = Artifact(name="correlations", version=2, depends_on=(MOMENTS,))
MATCHED = Artifact(name="one-to-one matchings", version=1, depends_on=(CORRELATED,))
SIMILAR = Artifact(
    name="similarities of layers", version=1, depends_on=(MOMENTS, "similarity.measures")
)
TABLES = Artifact(
    name="tables of the correlations",
    version=5,
    depends_on=(CORRELATED, MATCHED, SIMILAR, "models.revisions", "universal.threshold"),
)
ARTIFACTS = (SUMS, MOMENTS, CORRELATED, MATCHED, SIMILAR, TABLES)


@dataclass(frozen=True)
class StoredCalibration:
    """Shift and scale [N] of every neuron of a model, float32."""

    shift: Tensor
    scale: Tensor


@dataclass(frozen=True)
class ReducedModel:
    """What correlations need of one model, float64."""

    n_G: Tensor
    sum_GN: Tensor
    raw_GN: Tensor
    """sums of squares by group"""
    rotated_KN: Tensor
    """Σ(u - mean)² of every rotated unit, by draw"""
    moments: NeuronMoments
    scale_N: Tensor


@dataclass(frozen=True)
class ReducedSide:
    """What is kept of some rows of a matrix of correlations, or of its columns."""

    summary: RowSummary
    baseline_RK: Tensor
    """best correlation with any rotated unit, by draw"""
    error_R: Tensor
    """jackknife standard error of the best correlation"""


@dataclass(frozen=True)
class ReducedRows:
    """One layer of a pair's first model beside all of the second."""

    rows: ReducedSide
    columns: ReducedSide
    diagonal_D: Tensor
    """with the neuron of the same flat index; NaN where the shapes differ, as in the next"""
    after_D: Tensor
    """with that of the next flat index, NaN for the last"""
    before_D: Tensor
    """with that of the one before, NaN for the first"""


@dataclass(frozen=True)
class Matched:
    """A one-to-one matching of the neurons of a pair of models, by their flat indices."""

    row_P: Tensor
    column_P: Tensor
    corr_P: Tensor


@dataclass(frozen=True)
class Similarities:
    """One layer of a pair's first model beside the L layers of its second, by X measures in the
    order of the study, and back; NaN where there is none. Float64.
    """

    value_2XL: Tensor
    error_2XL: Tensor
    draws_2XLK: Tensor
    """what chance gives"""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What correlations are made by, wherever their sums lie."""

    policy: str
    device: str
    """where float64 products with the rotations are made"""
    rotations: int
    """draws of the baseline"""
    kind: str
    """of the baseline"""
    seed: int
    shifts: tuple[str, ...] = ()
    """names of the draws, where these are sums of their own and no rotations"""


@dataclass(frozen=True, kw_only=True)
class Reduction(Terms):
    """What every task of one reduction is told, and where its results lie."""

    store_url: str
    site: Site
    """what its units are"""
    layout: Layout
    settled: dict[str, Any]
    measures: tuple[str, ...]
    """of layers"""
    counted: str
    """what its sums are over: tokens, or segments of these"""

    def folder(self, item: Item) -> str:
        """Where the results of an item go: another folder when what they come from changes."""
        artifact = MOMENTS if len(item.models) == 1 else CORRELATED
        return f"reduce/{self._named(item, artifact)}"

    def _named(self, item: Item, artifact: Artifact) -> str:
        members = [Item((model,)) for model in item.models]
        sources = sorted(
            folder
            for each in {item, *members, *self.shifted(item)}
            for folder, _ in self.layout.folders(each)
        )
        key = artifact.fingerprint(self.settled, sources, rotation.STREAMS, TOP)
        return f"{item.key}-{key[:8]}"

    def shifted(self, item: Item) -> tuple[Item, ...]:
        """The sums of the baseline of a pair; of a model there are none."""
        return tuple(Item(item.models, each) for each in self.shifts if len(item.models) == 2)

    def model_file(self, model: Model) -> str:
        """What is stored of a model."""
        return f"{self.folder(Item((model,)))}/model.safetensors"

    def rows_file(self, pair: Item, layer: int) -> str:
        """What is stored of one layer of a pair's first model."""
        return layer_file(self.folder(pair), layer)

    def matched_file(self, pair: Item) -> str:
        """The one-to-one matching of a pair."""
        return f"similarity/{self._named(pair, MATCHED)}/matched.safetensors"

    def similar_file(self, pair: Item, layer: int) -> str:
        """Measures of one layer of a pair's first model."""
        return layer_file(f"similarity/{self._named(pair, SIMILAR)}", layer)

    def folders(self, items: Iterable[Item]) -> set[str]:
        """All that hold results."""
        found = set()
        for item in items:
            found.add(self.folder(item))
            if len(item.models) == 2:
                found.add(f"similarity/{self._named(item, MATCHED)}")
                found.add(f"similarity/{self._named(item, SIMILAR)}")
        return found

    def read_model(self, store: Store, model: Model) -> ReducedModel:
        return artifacts.get(store, self.model_file(model), ReducedModel)


def reduction(found: Outline, store: Store) -> Reduction:
    """Of a study."""
    policy = found.study.precision.moments
    assert policy is not None
    return Reduction(
        store_url=store.url,
        site=found.site,
        layout=found.layout,
        settled=found.settled,
        counted="segments" if found.apart else "tokens",
        measures=tuple(measure.value for measure in found.study.similarity.measures),
        policy=policy.value,
        device=found.study.cluster.device.value,
        rotations=found.study.baseline.rotations,
        kind=found.study.baseline.kind.value,
        shifts=found.study.baseline.shifts,
        seed=found.study.baseline.seed,
    )


def tables_fingerprint(found: Outline, store: Store) -> str:
    """Of all that the tables are made from."""
    recipe = reduction(found, store)
    return TABLES.fingerprint(
        found.settled,
        [recipe.folder(item) for item in found.items],
        [[model.name, model.given] for model in found.everyone],
        [model.name for model in found.references],
    )


def stand(found: Outline, store: Store) -> bool:
    """Whether the tables of these options are there and whole."""
    return finished.stand(store, finished.CORRELATIONS, tables_fingerprint(found, store))
