"""What the roles store, and where: scores, responses, effects, ablated paths, tables.

Shapes: N neurons of a model, D of a layer, R some of them, H heads of all layers, B bins, K entries
of a list, I interventions or paths, M measures, Q quantities of a path, X positions, T rows.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from universal_ray.config.hashing import fingerprint
from universal_ray.config.study import RolesConfig
from universal_ray.maths.roles.path_sums import POINTS, QUANTITIES, Path
from universal_ray.maths.roles.readout import MEASURES
from universal_ray.maths.roles.responses import Responses
from universal_ray.models.interventions import HELD, Intervention
from universal_ray.planning.items import Model, layer_file, marker
from universal_ray.planning.shards import Shard
from universal_ray.stages.correlations import artifacts as correlations
from universal_ray.stages.inputs import Outline
from universal_ray.stages.profile import artifacts as profile
from universal_ray.stages.profile.artifacts import Profile
from universal_ray.stages.roles.named import Named
from universal_ray.stages.roles.plan import RolesPlan, make_plan
from universal_ray.stages.roles.schemas import AT_BOS
from universal_ray.stages.sums import SUMS
from universal_ray.storage import artifacts, checked, finished
from universal_ray.storage.artifacts import Artifact, lacking
from universal_ray.storage.store import Store

FOLDER = "roles"

SCORES = Artifact(
    name="scores of roles",
    version=2,
    depends_on=(
        profile.WEIGHTS,
        profile.BANK,
        "roles.candidates",
        "roles.controls",
        "roles.neurons",
        "roles.paths",
        "roles.kurtosis",
        "roles.partition",
        "roles.null_share",
        "roles.frequency",
        "roles.seed",
    ),
    grows_with=("roles.tokens",),  # only where a row does not begin a text, which is then told
)
RESPONSES = Artifact(
    name="responses to tokens",
    version=1,
    # Statistics of the profile only spare it work: no neuron is left out that has a response.
    depends_on=(SUMS, "taxonomy.exclude", "taxonomy.convention"),
    chosen_by=(SCORES,),
    grows_with=("taxonomy.tokens",),
)
DECLARED = Artifact(
    name="choice of interventions",
    version=1,
    depends_on=(
        "roles.sweep", "roles.sweep_pre", "roles.bounds", "roles.sets", "roles.seed",
    ),
    chosen_by=(SCORES, profile.SCORES, correlations.TABLES),
)
"""Not stored: told anew from what it is made of, whenever it is asked for."""
EFFECTS = Artifact(
    name="effects of interventions",
    version=2,
    depends_on=("cluster.device",),
    chosen_by=(DECLARED, profile.BANK),
    grows_with=("roles.tokens",),
)
"""By groups of interventions on the same neurons, each known by what it does: those that are there
already stay, whatever else is declared."""
PATHS = Artifact(
    name="ablated paths",
    version=2,
    depends_on=("cluster.device",),
    chosen_by=(SCORES,),
    grows_with=("roles.tokens",),
)
"""Each by itself, as effects are by their groups."""
TABLES = Artifact(
    name="tables of the roles",
    version=2,
    depends_on=(profile.TABLES, SCORES, RESPONSES, DECLARED, EFFECTS, PATHS, "roles.tokens"),
)
ARTIFACTS = (SCORES, RESPONSES, EFFECTS, PATHS, TABLES)


@dataclass(frozen=True, kw_only=True)
class LogitScores:
    """Roles by what neurons write to the logits, and the class of tokens that explains it best."""

    prediction_N: Tensor
    suppression_N: Tensor
    partition_N: Tensor
    class_N: Tensor
    """column of the bank, -1 for none; what follows is NaN there"""
    variance_reduction_N: Tensor
    mean_difference_N: Tensor
    welch_t_N: Tensor

    @property
    def some_N(self) -> Tensor:
        """Bool: those of any of the three roles."""
        return self.prediction_N | self.suppression_N | self.partition_N


@dataclass(frozen=True, kw_only=True)
class EntropyScores:
    """Neurons that write where the unembedding reads little, and controls."""

    null_share_N: Tensor
    candidates_R: Tensor
    controls_R: Tensor
    entropy_rank_N: Tensor
    """-1 for a neuron without a place, as in the next"""
    null_share_rank_N: Tensor
    antipode_N: Tensor
    """flat index of the neuron that writes against it, -1 for none"""
    antipode_cosine_N: Tensor


@dataclass(frozen=True, kw_only=True)
class FrequencyScores:
    """What neurons write along the unigram direction."""

    component_N: Tensor
    cosine_N: Tensor
    chosen_R: Tensor


@dataclass(frozen=True, kw_only=True)
class LogitHistograms:
    """Logit effects of neurons with a role or chosen for one, by whether the id is of their class.
    """

    neuron_R: Tensor
    low_R: Tensor
    high_R: Tensor
    inside_RB: Tensor
    outside_RB: Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionScores:
    """How neurons move later heads' attention to the token that begins a text."""

    heads: int
    """of one layer"""
    head_N: Tensor
    """the head that a neuron moves most, of all layers; -1 where no head comes after it"""
    score_N: Tensor
    deviations_N: Tensor
    limit: float
    """deviations that no random direction exceeds"""
    neurons_H: Tensor
    null_deviation_H: Tensor
    histogram_HB: Tensor
    null_histogram_HB: Tensor
    top_HK: Tensor
    top_neuron_HK: Tensor
    bottom_HK: Tensor
    bottom_neuron_HK: Tensor
    path_I2: Tensor
    """neuron and head, of all layers, of every path to ablate"""
    path_score_I: Tensor
    path_deviations_I: Tensor
    path_named_I: Tensor
    """bool: those that the study names"""


@dataclass(frozen=True, kw_only=True)
class RoleScores:
    """What the weights of one model say its neurons could do."""

    logits: LogitScores
    entropy: EntropyScores
    frequency: FrequencyScores
    named_R: Tensor
    """flat indices of the neurons that the study names"""
    histograms: LogitHistograms
    attention: AttentionScores | None = field(metadata=lacking(AT_BOS))
    not_measured: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class LayerResponses:
    """What the neurons of a layer respond to."""

    found: Responses
    detector_suppresses_D: Tensor
    """whether a detector writes against the last token of what it detects"""


@dataclass(frozen=True, kw_only=True)
class ShardEffects:
    """Sums of `MEASURES` over the tokens of every row of a shard, by intervention, group by group;
    float64.
    """

    count_T: Tensor
    sums_MIT: Tensor


@dataclass(frozen=True, kw_only=True)
class ShardPaths:
    """Sums of `QUANTITIES` over the positions of a shard, by path; float64."""

    count: float
    totals_IQ: Tensor
    products_IQQ: Tensor
    points_IXQ: Tensor


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Of every neuron of a model: its mean activation, and how far it goes from zero."""

    mean_N: Tensor
    reach_N: Tensor


@dataclass(frozen=True)
class Begin:
    """The id that begins a text, and why nothing is measured at it; None where that is."""

    id: int | None
    missing: str | None


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What every task about roles is told, and where its results lie."""

    profile: Profile
    plan: RolesPlan
    options: RolesConfig
    device: str
    begin: Begin
    excluded: tuple[int, ...]
    """ids on which nothing is measured: special ones, and what the profile leaves out"""
    contents: tuple[str, ...]
    """hash of the rows of every shard"""

    @property
    def store_url(self) -> str:
        return self.profile.store_url

    @property
    def settled(self) -> dict[str, Any]:
        return self.profile.settled

    def no_attention(self, model: Model) -> str | None:
        """Why a model's attention to the token that begins a text is not read; None if it is."""
        return self.plan.untouched.get(model.identity) or self.begin.missing

    def named(self, model: Model) -> Named:
        """What the study names of a model."""
        return self.plan.named.get(model.identity, Named())

    def scores_file(self, model: Model) -> str:
        named = vars(self.named(model))
        of = [self.profile.weights_key, self.profile.bank_key, self.begin.id, named]
        key = SCORES.fingerprint(self.settled, *of, self.no_attention(model))
        return f"{FOLDER}/scores-{key[:12]}/{model.short}.safetensors"

    def responses_file(self, model: Model, classes: str, layer: int) -> str:
        """`classes`: of the neurons that have one, see `classes_key`."""
        of = [self.profile.rows, self.profile.units, list(self.excluded), classes]
        key = RESPONSES.fingerprint(self.settled, *of)
        return layer_file(f"{FOLDER}/responses-{key[:12]}/{model.short}", layer)

    def effects_folder(self, model: Model, counts_V: Tensor) -> str:
        """Of what is done to a model, in one piece or more for each shard."""
        key = EFFECTS.fingerprint(
            self.settled, list(self.excluded), counts_V.tolist(), list(MEASURES)
        )
        return f"{FOLDER}/effects-{key[:12]}/{model.short}"

    def paths_folder(self, model: Model) -> str:
        """Of the sums of a model's ablated paths, in one piece or more for each shard."""
        key = PATHS.fingerprint(self.settled, list(self.excluded), list(QUANTITIES), POINTS)
        return f"{FOLDER}/paths-{key[:12]}/{model.short}"

    def of(self, model: Model, shard: Shard) -> dict[str, Any]:
        """What sums over a shard say that they are of."""
        return {"models": [model.identity], "rows": self.contents[shard.index]}

    def read_scores(self, store: Store, model: Model) -> RoleScores:
        return artifacts.get(store, self.scores_file(model), RoleScores)

    def read_activations(self, store: Store, model: Model) -> Activations:
        mean, reach = [], []
        for layer in range(model.layers):
            found = self.profile.read_layer(store, model, layer)
            mean.append(found.post_mean)
            reach.append(found.reach)
        return Activations(mean_N=torch.cat(mean), reach_N=torch.cat(reach))


def shard_folder(folder: str, shard: Shard) -> str:
    """Of the sums of one shard, and their marker."""
    return f"{folder}/shard-{shard.index:03d}"


def sums_file(folder: str) -> str:
    """Of a shard or a piece of it."""
    return f"{folder}/sums.safetensors"


def group_key(group: Sequence[Intervention]) -> str:
    """Of interventions that hold the same neurons by one rule, by all that is done."""
    done = [[each.neurons, each.values, each.frozen] for each in group]
    rules = sorted({each.rule for each in group} - {HELD})
    return fingerprint([*done, *rules])[:16]


def path_key(path: Path) -> str:
    """Of a path, in the place of a group's."""
    return fingerprint(vars(path))[:16]


def piece_folder(folder: str, shard: Shard, keys: Sequence[str]) -> str:
    """Of the sums of some groups or paths on a shard."""
    return f"{shard_folder(folder, shard)}-{fingerprint(list(keys))[:8]}"


def pieces(
    store: Store, recipe: Roles, folder: str, model: Model, stored: Collection[str]
) -> dict[int, dict[str, tuple[str, int]]]:
    """Of the sums that are `stored` in a folder, by shard and key of a group or path: the piece
    that holds them, and where in it they begin.
    """
    found: dict[int, dict[str, tuple[str, int]]] = {}
    for shard in recipe.plan.shards:
        held = found.setdefault(shard.index, {})
        begin = f"{shard_folder(folder, shard)}-"
        of_shard = {path.rpartition("/")[0] for path in stored if path.startswith(begin)}
        for piece in sorted(of_shard):
            told, first = checked.told(store, marker(piece)), 0
            if told.get("of") == recipe.of(model, shard):
                for key, count in told["groups"]:
                    held.setdefault(key, (piece, first))
                    first += count
    return found


def classes_key(scores: RoleScores, membership_VF: Tensor) -> str:
    """Of what responses take from scores: which neurons have a class of tokens, and its ids."""
    class_N = scores.logits.class_N
    neuron_R = torch.nonzero(scores.logits.some_N & (class_N >= 0)).flatten()
    class_R = class_N[neuron_R].tolist()
    ids = {place: membership_VF[:, place].nonzero().flatten().tolist() for place in {*class_R}}
    members = {place: fingerprint(each) for place, each in ids.items()}
    return fingerprint([neuron_R.tolist(), [members[place] for place in class_R]])


def tables_fingerprint(found: Outline, store: Store) -> str:
    """Of all that the tables are made from."""
    plan = make_plan(found)
    units = [unit.content for unit in found.layout.units if unit.start < plan.rows]
    return TABLES.fingerprint(
        profile.profile(found, store).settled,
        profile.tables_fingerprint(found, store),
        [plan.rows, units, sorted(plan.untouched.items())],
    )


def stand(found: Outline, store: Store) -> bool:
    """Whether the tables of these options are there and whole."""
    return finished.stand(store, finished.ROLES, tables_fingerprint(found, store))
