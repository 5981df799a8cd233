"""What a report stores, and where: windows of every neuron, its partners in them, tables.

Shapes: N neurons of a model, D of a layer, C candidates of a neuron, M windows of a model, W tokens
of a window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from universal_ray.config.hashing import fingerprint
from universal_ray.config.report import ReportConfig
from universal_ray.maths.statistics.descriptions import Fitted, Scores
from universal_ray.maths.statistics.windows import NONE, Peaks
from universal_ray.models.site import Ask
from universal_ray.planning.items import Model, layer_file
from universal_ray.planning.shards import Shard
from universal_ray.stages.correlations import artifacts as correlations
from universal_ray.stages.inputs import Outline
from universal_ray.stages.profile import artifacts as profile
from universal_ray.stages.profile.artifacts import Profile
from universal_ray.stages.report.labels import FREQUENT, Chosen
from universal_ray.stages.report.plan import HALF, ReportPlan, make_plan
from universal_ray.stages.roles import artifacts as roles
from universal_ray.stages.sums import SUMS
from universal_ray.storage import artifacts, finished
from universal_ray.storage.artifacts import Artifact
from universal_ray.storage.store import Store

FOLDER = "examples"
SPARE = 2
"""Candidates for each window around a largest activation: of two with the same tokens one goes."""

PEAKS = Artifact(
    name="windows of the largest activations",
    version=1,
    depends_on=(SUMS, "report.window", "report.top"),
    grows_with=("taxonomy.tokens",),
)
SAMPLE = Artifact(
    name="windows of a sample",
    version=1,
    depends_on=(
        SUMS,
        "report.window",
        "report.quantiles",
        "report.random",
        "report.silent",
        "report.sample",
        "report.seed",
    ),
    grows_with=("taxonomy.tokens",),
)
GROUPS = Artifact(
    name="activations by what tokens are",
    version=1,
    depends_on=(SUMS, profile.BANK, profile.LABELS, "taxonomy.exclude"),
    # Whose: universal neurons and members of families; and of which class of logits.
    chosen_by=(correlations.TABLES, profile.SCORES, roles.SCORES),
    grows_with=("report.neurons",),
)
WINDOWS = Artifact(name="windows of examples", version=1, depends_on=(PEAKS, SAMPLE))
PARTNERS = Artifact(
    name="partners in windows",
    version=1,
    depends_on=(WINDOWS,),
    # Who the partners are, and whose windows come first.
    chosen_by=(correlations.TABLES, roles.TABLES),
    grows_with=("report.tokens",),
)
DESCRIPTIONS = Artifact(
    name="descriptions",
    version=1,
    depends_on=(SUMS, profile.BANK, profile.LABELS, "report.sample", "report.seed"),
)
TRANSFER = Artifact(
    name="transfer of descriptions",
    version=1,
    depends_on=(DESCRIPTIONS,),
    chosen_by=(correlations.TABLES,),
)
TABLES = Artifact(
    name="tables of the report",
    version=1,
    depends_on=(
        roles.TABLES,
        profile.BANK,
        GROUPS,
        PARTNERS,
        TRANSFER,
        "report.tokens",
        "report.neurons",
        "report.score",
    ),
)
ARTIFACTS = (PEAKS, SAMPLE, GROUPS, WINDOWS, PARTNERS, DESCRIPTIONS, TRANSFER, TABLES)


@dataclass(frozen=True, kw_only=True)
class ModelPeaks:
    """Largest activations of all neurons of a model over a shard, and smallest, negated."""

    highest: Peaks
    lowest: Peaks | None
    """None unless activations are of both signs"""


@dataclass(frozen=True, kw_only=True)
class LayerSample:
    """Candidates for windows of a layer's neurons: quantiles, random ones, silent ones."""

    row_DC: Tensor
    """-1 for none"""
    focus_DC: Tensor
    window_DCW: Tensor
    """activations, float32"""


@dataclass(frozen=True, kw_only=True)
class LayerDescriptions:
    """What the neurons of a layer fire on, and how far that holds."""

    fitted: Fitted
    scores: Scores
    shuffled: Scores
    """where what is said is shuffled among the tokens"""


@dataclass(frozen=True, kw_only=True)
class ModelTransfer:
    """What descriptions of other models' neurons say, beside the neurons of one: sums as
    `descriptions.correlated` takes them, by identity of the model described.
    """

    partner_5N: dict[str, Tensor]
    control_5N: dict[str, Tensor]
    """beside a random neuron of the partner's layer"""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of a model that are shown, in the order of the table."""

    neuron_M: Tensor
    """flat index"""
    kind_M: Tensor
    """index into `config.report.KINDS`"""
    rank_M: Tensor
    row_M: Tensor
    start_M: Tensor
    focus_M: Tensor
    tokens_MW: Tensor
    window_MW: Tensor
    """activations, float32"""


@dataclass(frozen=True, kw_only=True)
class Partners:
    """Activations of one model's neurons in the windows of others, of the rows of a shard."""

    window_M: dict[str, Tensor]
    """places in `Windows`, by identity of the model whose windows they are"""
    value_MW: dict[str, Tensor]
    """float32; zero where its neuron has no partner here"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What every task of a report is told, and where its results lie."""

    profile: Profile
    plan: ReportPlan
    options: ReportConfig
    excluded: tuple[int, ...]
    """ids that no example is of"""

    @property
    def store_url(self) -> str:
        return self.profile.store_url

    @property
    def settled(self) -> dict[str, Any]:
        return self.profile.settled

    @cached_property
    def _tokens(self) -> list[Any]:
        """What the rows of the profile are."""
        return [self.plan.rows, [name for _, name in self.profile.units]]

    @cached_property
    def peaks_key(self) -> str:
        shards = [vars(shard) for shard in self.profile.shards]
        return PEAKS.fingerprint(self.settled, self._tokens, shards, SPARE)

    @cached_property
    def sample_key(self) -> str:
        return SAMPLE.fingerprint(self.settled, self._tokens, list(self.plan.sample))

    @cached_property
    def windows_key(self) -> str:
        return WINDOWS.fingerprint(self.settled, self.peaks_key, self.sample_key)

    def peaks_file(self, model: Model, shard: Shard) -> str:
        folder = f"{FOLDER}/peaks-{self.peaks_key[:12]}/{model.short}"
        return f"{folder}/shard-{shard.index:03d}.safetensors"

    def sample_file(self, model: Model, layer: int) -> str:
        return layer_file(f"{FOLDER}/sample-{self.sample_key[:12]}/{model.short}", layer)

    def groups_folder(self, model: Model, chosen: Chosen, names: Sequence[str]) -> str:
        """Of chosen neurons of a model; `names`: of the columns of the bank."""
        told = [[None if n == NONE else names[n] for n in chosen.feature_R], *vars(chosen).values()]
        of = [self.profile.bank_key, self.profile.labels_key, FREQUENT, told]
        key = GROUPS.fingerprint(self.settled, *of)
        return f"{FOLDER}/groups-{key[:12]}/{model.short}"

    def windows_file(self, model: Model) -> str:
        return f"{FOLDER}/windows-{self.windows_key[:12]}/{model.short}.safetensors"

    def partners_folder(
        self, other: Model, rows: Sequence[int], partners: Mapping[str, Tensor]
    ) -> str:
        """Of what is read in one model: on which rows, and which neurons by the model whose
        windows these are.
        """
        chosen = {identity: fingerprint(each.tolist()) for identity, each in partners.items()}
        key = PARTNERS.fingerprint(self.settled, self.windows_key, list(rows), chosen)
        return f"{FOLDER}/partners-{key[:12]}/{other.short}"

    @cached_property
    def descriptions_key(self) -> str:
        of = [self.profile.bank_key, self.profile.labels_key, list(self.plan.sample), HALF]
        return DESCRIPTIONS.fingerprint(self.settled, self._tokens, of)

    def descriptions_file(self, model: Model, layer: int) -> str:
        folder = f"{FOLDER}/descriptions-{self.descriptions_key[:12]}/{model.short}"
        return layer_file(folder, layer)

    def transfer_file(self, other: Model, partners: Mapping[str, Tensor]) -> str:
        """Of what is read in one model for those whose descriptions these are."""
        chosen = {identity: fingerprint(each.tolist()) for identity, each in partners.items()}
        key = TRANSFER.fingerprint(self.settled, self.descriptions_key, chosen)
        return f"{FOLDER}/transfer-{key[:12]}/{other.short}.safetensors"

    def read_descriptions(self, store: Store, model: Model) -> list[LayerDescriptions]:
        """By layer."""
        return [
            artifacts.get(store, self.descriptions_file(model, layer), LayerDescriptions)
            for layer in range(model.layers)
        ]

    def read_windows(self, store: Store, model: Model) -> Windows:
        return artifacts.get(store, self.windows_file(model), Windows)


def groups_file(folder: str, shard: Shard) -> str:
    return f"{folder}/shard-{shard.index:03d}.safetensors"


def partners_file(folder: str, shard: Shard) -> str:
    return f"{folder}/shard-{shard.index:03d}.safetensors"


def tables_fingerprint(found: Outline, store: Store) -> str:
    """Of all that the tables are made from."""
    recipe = profile.profile(found, store)
    earlier = profile if Ask.roles in found.site.lacks else roles
    plan = make_plan(found, recipe.rows)
    units = [name for _, name in recipe.units]
    described = [[d.model.name, [other.name for other in d.others]] for d in plan.described]
    return TABLES.fingerprint(
        recipe.settled,
        earlier.tables_fingerprint(found, store),
        [plan.rows, units, described, plan.partner_rows, HALF],
    )


def stand(found: Outline, store: Store) -> bool:
    """Whether the tables of these options are there and whole."""
    return finished.stand(store, finished.REPORT, tables_fingerprint(found, store))
