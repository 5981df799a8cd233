"""The configuration of a study: Hydra's schema and its checks.

Every field here is a key a user may set; `conf/` holds the values. Checks across fields live in
`check`; what a change of a key means for a run that exists, in `changes`.
"""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from universal_ray.config.cluster import ClusterConfig as ClusterConfig
from universal_ray.config.cluster import Device as Device
from universal_ray.config.cluster import check_cluster as check_cluster
from universal_ray.config.named import named_neurons, named_paths
from universal_ray.config.numbers import check_finite, check_positive
from universal_ray.config.report import ReportConfig, counts
from universal_ray.config.roles import Bound as Bound
from universal_ray.config.roles import RolesConfig as RolesConfig
from universal_ray.config.similarity import SimilarityConfig
from universal_ray.config.site import check_site
from universal_ray.errors import ConfigurationError


class Pairs(Enum):
    """Which models are correlated."""

    reference = "reference"
    """the reference with each compared model, as in the paper"""
    all = "all"
    """every two models"""


class ForwardType(Enum):
    """Number format of the forward pass."""

    float32 = "float32"
    tfloat32 = "tfloat32"
    """float32 whose products round their factors to 10 bits, on a GPU's tensor cores"""
    bfloat16 = "bfloat16"
    float16 = "float16"


class Exclusion(Enum):
    """Named rules for tokens that do not count."""

    paper = "paper"
    special = "special"
    none = "none"


class Policy(Enum):
    """How products are multiplied and accumulated."""

    fp32 = "fp32"
    fp16 = "fp16"
    split = "split"


class Baseline(Enum):
    """What stands for chance: a law of rotations, or other tokens."""

    gaussian = "gaussian"
    orthogonal = "orthogonal"
    shifted = "shifted"
    """other rows of text: units of the other model are read at the tokens of other rows; for
    sparse units, which a rotation would make dense"""


@dataclass(kw_only=True)
class RunConfig:
    dir: str = "runs/tiny"
    """Run directory: a path or an fsspec address that every node can reach."""


@dataclass(kw_only=True)
class ModelsConfig:
    reference: str = "???"
    """The model whose neurons are asked about: hub `id[@revision]` or a directory."""
    compared: list[str] = field(default_factory=list)
    """The models they are looked for in."""
    pairs: Pairs = Pairs.reference
    revisions: list[str] = field(default_factory=list)
    """Points of training to follow: `{revision}` in the names stands for each in turn, and models
    of the same revision are compared."""
    tokenizer: str | None = None
    """Tokenizer of all models, by default each model's own."""
    site: str = "mlp_post"
    """What a unit is: `mlp_post` (a neuron, by what enters W_out), `mlp_pre` (by what enters its
    activation function), of gated MLPs `mlp_gate` (by act(gate)), `mlp_up` (by the factor that the
    gate lets through) or `mlp_sign` (its four cases of sign), `attention_z` (a dimension of a
    head), `attention_norm` (a head), `residual` (a dimension of the residual stream), `sae:WHERE`
    (a latent of sparse autoencoders or transcoders, in a folder or on the hub; `{model}` in it
    stands for the last part of each model's name, `{label}` for what is after `#` there;
    `sae:WHERE:HOOK` says what they read where their files do not)."""
    dtype: ForwardType = ForwardType.float32


class Join(Enum):
    """What stands between two documents in a row of tokens."""

    eos = "eos"
    """EOS"""
    none = "none"
    """Nothing, and EOS is taken out of the text itself: as in the paper's rows, whose tokenizer has
    EOS for padding and was made to drop it."""


class Unicode(Enum):
    """What text is brought into before it is tokenised."""

    nfc = "nfc"
    """Accents and letters composed."""


@dataclass(kw_only=True)
class TextConfig:
    source: str = "???"
    """Hub `id[@revision]`; or a .parquet, .jsonl, .json or .txt file, glob or folder, here or on
    the hub as `hf://datasets/id[@revision]/file`."""
    name: str | None = None
    """Configuration of a hub dataset."""
    split: str = "train"
    """Of a hub dataset."""
    column: str = "text"
    """Column with the text of a document."""
    subset: str | None = None
    """Column with a document's subset label, dots reach into nested ones."""
    minimum_characters: int = 51
    """Shorter documents are dropped (the paper drops those of up to 50 characters)."""
    join: Join = Join.eos
    unicode: Unicode | None = None
    """`nfc`: accents and letters composed, as some tokenizers (Pythia's) do by themselves, so that
    all give the text back; by default text is taken as it is."""
    bytes: int | None = None
    """About how much the files of the source hold: more than a tenth off is refused; by default not
    looked at."""
    documents: int | None = None
    """How many documents to read at most, by default all."""
    prepared: str | None = None
    """Where the token shards go, by default a folder of `run.dir` named by `corpus.tokens`."""


class Align(Enum):
    """How models of different tokenizers are compared."""

    auto = "auto"
    """Token by token where all have one tokenizer, else by segments between bytes at which a token
    of each ends."""
    tokens = "tokens"
    """Not at all: they are refused."""


class Segment(Enum):
    """The activation of a segment of several tokens."""

    last = "last"
    """its last token's"""
    mean = "mean"
    """the mean of its tokens'"""


@dataclass(kw_only=True)
class CorpusConfig:
    path: str | None = None
    """An already tokenised `datasets` directory; none where `text` is to be tokenised."""
    context: int | None = None
    """Tokens per row; by default what the tokenised directory holds."""
    tokens: int | None = None
    """Raw tokens to use, rounded up to whole rows; by default all."""
    exclude: Exclusion = Exclusion.paper
    align: Align = Align.auto
    pool: Segment = Segment.last
    seed: int = 0
    """Seed of the shuffle when text is tokenised."""
    text: TextConfig | None = None
    """Text to tokenise, once: of `corpus=text` and of the corpora that name a source."""


@dataclass(kw_only=True)
class UnitsConfig:
    """What is left open is chosen from the study once, and kept in the run directory."""

    tokens: int | None = None
    """Raw tokens of one unit of work, rounded down to whole rows."""
    batch: int | None = None
    """Raw tokens of one forward pass and of one product, rounded down to whole rows."""
    fold: int | None = None
    """Full units that fold into one block; blocks are what the jackknife leaves out."""


@dataclass(kw_only=True)
class PrecisionConfig:
    moments: Policy | None = None
    """By default `fp32` on a CPU, `fp16` on a GPU."""


@dataclass(kw_only=True)
class BaselineConfig:
    rotations: int = 5
    """Draws: random rotations of each layer of the other model, or shifts of its rows, each of
    which takes as long as the correlations."""
    kind: Baseline = Baseline.gaussian
    seed: int = 0
    """Of the draws."""

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the draws that sums are made of, where the baseline is that of other tokens."""
        if self.kind is not Baseline.shifted:
            return ()
        return tuple(f"{self.seed}.{draw}" for draw in range(self.rotations))


@dataclass(kw_only=True)
class UniversalConfig:
    threshold: float = 0.5
    """A neuron is universal when its excess correlation is above this."""


class Convention(Enum):
    """LayerNorm absorbed into what reads it and weights centred, as in the paper; or as trained."""

    folded = "folded"
    raw = "raw"


@dataclass(kw_only=True)
class TaxonomyConfig:
    tokens: int | None = None
    """Raw tokens from the first row on; by default all, at most 10M as in the paper."""
    exclude: Exclusion = Exclusion.none
    """The paper leaves none out here."""
    convention: Convention = Convention.folded
    """Of the weights that statistics are made of."""
    syntax: str | None = "rules"
    """`rules`, the name of an installed spaCy pipeline, or null."""
    topics: int = 20
    """How many topics are found in the corpus, as features of rows; 0 where tokens are no words."""
    words: list[str] = field(default_factory=list)
    """YAML files of further word lists."""
    unigram_ids: int = 3
    """A unigram feature has more token ids than this,"""
    unigram_occurrences: int = 3000
    """and more occurrences than this in 10M tokens."""
    minimum_support: int = 30
    """Tokens with, and without, a feature that gets a score."""
    subset_histograms: bool = False
    """Whether each neuron has a histogram of every subset; they take 257 numbers each."""
    examples: int = 8
    """Tokens on which each neuron is largest that are listed."""
    listed: int = 10
    """Entries of each neuron's lists of tokens and heads, and of a head's of neurons (the authors'
    have 100)."""
    features: int = 5
    """Best features of each neuron that are listed."""


@dataclass(kw_only=True)
class Study:
    """What is asked of which models, on which tokens and by what means.

    >>> import universal_ray as ur
    >>> study = ur.Study()
    >>> study.models.reference, study.models.compared = "/models/seed1", ["/models/seed2"]
    >>> study.corpus.path = "/data/tokens"
    """

    run: RunConfig = field(default_factory=RunConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    units: UnitsConfig = field(default_factory=UnitsConfig)
    """Pieces of work that tokens are cut into."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    """What a match without a privileged basis would give: best partners among rotated neurons."""
    universal: UniversalConfig = field(default_factory=UniversalConfig)
    similarity: SimilarityConfig = field(default_factory=SimilarityConfig)
    """How alike whole layers are, from the same sums."""
    taxonomy: TaxonomyConfig = field(default_factory=TaxonomyConfig)
    """Of the stage `profile`: statistics, features and families of neurons."""
    roles: RolesConfig = field(default_factory=RolesConfig)
    """Of the stage `roles`: what neurons do."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """Of the stage `report`: what is shown of neurons."""


def check(study: Study) -> None:
    """Every check across fields that needs no file. Raises ConfigurationError."""
    check_cluster(study.cluster)
    check_finite(plain(study))
    check_positive({
        "units.tokens": study.units.tokens,
        "units.batch": study.units.batch,
        "units.fold": study.units.fold,
        "baseline.rotations": study.baseline.rotations,
        "taxonomy.tokens": study.taxonomy.tokens,
        "taxonomy.minimum_support": study.taxonomy.minimum_support,
        "taxonomy.examples": study.taxonomy.examples,
        "taxonomy.listed": study.taxonomy.listed,
        "taxonomy.features": study.taxonomy.features,
        "roles.tokens": study.roles.tokens,
        "roles.candidates": study.roles.candidates,
        "roles.controls": study.roles.controls,
        "roles.sets": study.roles.sets,
        **counts(study.report),
        "corpus.tokens": study.corpus.tokens,
        "corpus.context": study.corpus.context,
        "corpus.text.documents": study.corpus.text.documents if study.corpus.text else None,
        "corpus.text.bytes": study.corpus.text.bytes if study.corpus.text else None,
    })
    named_neurons(study.roles.neurons)
    named_paths(study.roles.paths)
    for key in ("corpus.seed", "taxonomy.topics"):
        if (value := value_of(study, key)) < 0:
            raise ConfigurationError(f"{key} is {value}: give a number of at least 0")
    if not study.run.dir.strip():
        raise ConfigurationError("run.dir is empty: name a directory")
    for key in ("roles.sweep", "roles.sweep_pre", "roles.bounds", "similarity.measures"):
        given = value_of(study, key)
        if len(set(given)) < max(key == "roles.sweep", len(given)):
            raise ConfigurationError(f"{key} is {given}: give values, each once")
    check_site(study.models.site)
    if not study.models.compared:
        raise ConfigurationError("models.compared is empty: name at least one model to compare")
    names = [name for group in model_groups(study.models) for name in group]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"model {name} is named twice: name each model once")
    if (study.corpus.path is None) == (study.corpus.text is None):
        raise ConfigurationError(
            "corpus.path and corpus.text are both set or both missing: "
            "give a tokenised directory or text to tokenise"
        )
    units = study.units
    if units.batch is not None and units.tokens is not None and units.batch > units.tokens:
        raise ConfigurationError(
            f"units.batch ({units.batch}) is larger than units.tokens "
            f"({units.tokens}): make units of at least one batch"
        )
    if not -1 <= study.universal.threshold <= 2:
        raise ConfigurationError(
            f"universal.threshold is {study.universal.threshold}: give a correlation"
        )


def model_groups(models: ModelsConfig) -> list[list[str]]:
    """Names of the models that are compared with each other, the reference first, by revision.

    Raises ConfigurationError where revisions are given and a name has no place for them.
    """
    names = [models.reference, *models.compared]
    if not models.revisions:
        return [names]
    for name in names:
        if "{revision}" not in name:
            raise ConfigurationError(
                f"models.revisions is given and {name} is the same at each: write {{revision}} "
                "where its name holds the revision"
            )
    return [
        [name.replace("{revision}", revision) for name in names] for revision in models.revisions
    ]


def plain(value: Any) -> Any:
    """Nested dataclasses and enums as plain dictionaries, strings and numbers."""
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def keys() -> tuple[str, ...]:
    """Dotted, of all that says what a study makes: not where."""
    return tuple(
        f"{section.name}.{key.name}"
        for section in fields(Study)
        if section.name != "run"
        for key in fields(getattr(Study(), section.name))
    )


def value_of(study: Study, key: str) -> Any:
    """The plain value of a dotted key."""
    value: Any = study
    for name in key.split("."):
        value = getattr(value, name)
    return plain(value)
