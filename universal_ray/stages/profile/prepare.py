"""What can be wrong with the profile, found before any model runs."""

from universal_ray.corpus.rows import count_kept
from universal_ray.errors import ConfigurationError
from universal_ray.features.bank import choose, feature_bank
from universal_ray.features.features import TokenRows
from universal_ray.features.semantics import check_topics
from universal_ray.features.syntax import check_pipeline
from universal_ray.features.vocabulary import read_vocabulary
from universal_ray.runtime.measure import expected_memory
from universal_ray.stages.inputs import Inputs, Outline
from universal_ray.stages.profile.artifacts import Profile, profile
from universal_ray.stages.profile.bank import bank_options, id_counts
from universal_ray.stages.profile.plan import Plan
from universal_ray.storage import checked, finished
from universal_ray.storage.store import Store


def make_plan(found: Outline, store: Store) -> Plan:
    """What will be made of a study.

    Raises ConfigurationError for a pipeline of syntax or a word list that is not there, or workers
    whose memory is told and too small.
    """
    study = found.study
    found.check_one_tokenizer(finished.PROFILE)
    if study.taxonomy.syntax:
        check_pipeline(study.taxonomy.syntax)
    choose(bank_options(study.taxonomy, syntax=False))
    plan = Plan(
        recipe=profile(found, store),
        topics=study.taxonomy.topics,
        footprint=found.footprint,
        memory=expected_memory(study.cluster),
    )
    if study.cluster.memory is not None:
        _ = plan.readings
    return plan


def prepare(inputs: Inputs, store: Store) -> Profile:
    """The recipe of a study's profile.

    Raises as `make_plan`, and ConfigurationError for options that do not fit its tokens.
    """
    recipe, options, corpus = make_plan(inputs, store).recipe, inputs.study.taxonomy, inputs.corpus
    if count_kept(corpus, recipe.excluded, start=0, stop=recipe.rows) == 0:
        raise ConfigurationError(
            f"taxonomy.exclude={options.exclude.value} leaves no token of the first {recipe.rows} "
            f"rows of {corpus.path}: exclude fewer"
        )
    if not checked.receipts(store, checked.marker_of(recipe.bank_file)):
        vocabulary = read_vocabulary(inputs.tokenizer, inputs.vocabulary)
        rows = TokenRows(corpus.read(0, recipe.topic_rows), vocabulary)
        check_topics(rows, options.topics)
        # All that does not take minutes, for names that are there twice.
        first_V, others_V = id_counts(corpus, recipe.rows, len(vocabulary))
        feature_bank(
            vocabulary,
            first_V + others_V,
            bank_options(options, syntax=False),
            subsets=recipe.subsets,
        )
    return recipe
