"""A model with planted neurons: each is found and shown to do what it was planted to do.

Shapes: B rows, P positions, C channels, K channels of a head, V vocabulary.
"""

import pytest
import torch
from helpers_planted import (
    ENTROPY,
    HEADS,
    LAYERS,
    MEMBERS,
    PROMOTER,
    SUPPRESSOR,
    SWITCH,
    SWITCHED_HEAD,
    SWITCHED_LAYER,
    VOCABULARY,
    WIDTH,
    plant,
)

from universal_ray.maths.roles.attention import (
    bos_directions,
    bos_scores,
    null_scores,
    path_correlation,
    path_means,
    strongest_pairs,
)
from universal_ray.maths.roles.entropy import SWEEP, EntropyOptions, choose, null_space_share
from universal_ray.maths.roles.logits import logit_roles, token_classes
from universal_ray.maths.roles.path_sums import Path
from universal_ray.maths.statistics.bootstrap import Bootstrap
from universal_ray.maths.statistics.weights import ModelWeights, vector_statistics, vocabulary
from universal_ray.models.decoder import Decoder, load_decoder
from universal_ray.models.interventions import Effects, Intervener, Intervention, held
from universal_ray.models.paths import ablate_paths
from universal_ray.models.source import ModelSource, resolve
from universal_ray.models.weights import load_weights

HEAD = Path(SWITCH, SWITCHED_LAYER, SWITCHED_HEAD)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return resolve(str(plant(tmp_path_factory.mktemp("planted"))))


@pytest.fixture(scope="module")
def decoder(source: ModelSource) -> Decoder:
    return load_decoder(source)


@pytest.fixture(scope="module", params=["raw", "folded"])
def weights(source: ModelSource, request: pytest.FixtureRequest) -> ModelWeights:
    return load_weights(source, request.param)


def rows(count: int = 12, context: int = 32) -> torch.Tensor:
    tokens_BP = torch.randint(
        1, VOCABULARY, (count, context), generator=torch.Generator().manual_seed(2)
    )
    tokens_BP[:, 0] = 0
    return tokens_BP


def counts() -> torch.Tensor:
    return torch.arange(VOCABULARY)


def statistics(weights: ModelWeights) -> dict[str, torch.Tensor]:
    share_N = null_space_share(weights.w_out_NC, weights.unembed_CV, directions=2)
    moments = vocabulary(weights.w_out_NC, weights.unembed_CV, 1).moments
    return vector_statistics(weights) | moments | {"null_share": share_N}


def test_weights_tell_the_roles(weights: ModelWeights):
    roles = logit_roles(statistics(weights))
    assert roles.prediction_N.nonzero().flatten().tolist() == [PROMOTER]
    assert roles.suppression_N.nonzero().flatten().tolist() == [SUPPRESSOR]
    membership_VF = torch.zeros(VOCABULARY, 3, dtype=torch.bool)
    membership_VF[:200, 0] = membership_VF[list(MEMBERS), 1] = membership_VF[::3, 2] = True
    found = token_classes(
        weights.w_out_NC[[PROMOTER, SUPPRESSOR]], weights.unembed_CV, membership_VF
    )
    assert found.best()[0].tolist() == [1, 1]
    promoted, suppressed = found.scores.mean_difference_FN[1].tolist()
    assert promoted > 0 > suppressed


def test_weights_tell_the_entropy_neuron(weights: ModelWeights):
    options = EntropyOptions(norm_percentile=20.0, null_share=0.8)
    chosen = choose(statistics(weights), LAYERS, options)
    assert chosen.candidates_R.tolist() == [ENTROPY]
    assert len(chosen.controls_R) == 20


def effects(decoder: Decoder, interventions: list[Intervention]) -> Effects:
    tokens_BP = rows()
    return Intervener(decoder, interventions, counts())(tokens_BP, tokens_BP != 0)


def test_the_entropy_neuron_raises_scale_and_entropy_and_no_more(decoder: Decoder):
    declared = [held([ENTROPY], value) for value in SWEEP]
    found = effects(decoder, declared)
    means = {name: (sums.sum(1) / found.count_R.sum()) for name, sums in found.sums.items()}
    for name in ("scale", "entropy"):
        assert bool((means[name].diff()[1:] > 0).all()), name
    assert float(means["scale"][-1]) > 1.1 * float(means["scale"][1])
    torch.testing.assert_close(
        means["reciprocal_rank"], means["reciprocal_rank"][:1].expand(len(SWEEP))
    )
    assert float(means["top_changed"].max()) == 0


def mediated(decoder: Decoder, neuron: int, frozen: str) -> float:
    found = effects(decoder, [held([neuron], 4.0), held([neuron], 4.0, frozen=frozen)])
    shift_IR = found.sums["loss_shift"]
    share = Bootstrap(len(found.count_R)).mediated_share(shift_IR[:1], shift_IR[1:])
    assert float(share.low_I) <= float(share.value_I) <= float(share.high_I)
    return float(share.value_I)


def test_all_of_its_effect_goes_through_the_final_scale(decoder: Decoder):
    assert mediated(decoder, ENTROPY, "scale") > 0.999
    assert mediated(decoder, PROMOTER, "scale") < 0.5
    for neuron in (2 * WIDTH + 50, 2 * WIDTH + 60, WIDTH + 3):
        assert abs(mediated(decoder, neuron, "scale")) < 0.5


def test_promoting_a_token_helps_where_it_comes(decoder: Decoder):
    """Rows whose every next token is in the class: the promoter lowers the loss."""
    tokens_BP = torch.tensor(list(MEMBERS) * 2)[None].repeat(2, 1)[:, :32]
    declared = [Intervention(), held([PROMOTER], 3.0), held([SUPPRESSOR], 3.0)]
    keep_BP = torch.ones_like(tokens_BP, dtype=torch.bool)
    loss = Intervener(decoder, declared, counts())(tokens_BP, keep_BP).sums["loss"].sum(1)
    assert loss[1] < loss[0] < loss[2]


def test_the_switch_is_found_and_switches_its_head_off(decoder: Decoder, source: ModelSource):
    weights = load_weights(source, "folded")
    assert weights.query_HCK is not None
    direction_HC = bos_directions(weights.query_HCK, decoder.lone_keys(0))
    score_NH = bos_scores(weights.w_out_NC, direction_HC, LAYERS)
    pairs = strongest_pairs(score_NH, null_scores(direction_HC, draws=1000), 5)
    assert pairs[0].tolist() == [SWITCH, HEADS + 2]
    assert float(score_NH[SWITCH, HEADS + 2]) > 0
    other = Path(SWITCH + 1, layer=1, head=2)
    tokens_BP = rows(40)
    found = ablate_paths(decoder, [HEAD, other], tokens_BP, tokens_BP != 0)
    change = path_means(found)["bos_change"].abs()
    assert change[0] > 3 * change[1]
    # Taking the path out where it is active takes attention off BOS, so that the head says more.
    assert float(path_correlation(found, "activation", "bos_change")[0]) < -0.5
    assert float(path_correlation(found, "bos_change", "norm_change")[0]) < -0.4
    assert float(path_correlation(found, "activation", "norm_change")[0]) > 0.3
