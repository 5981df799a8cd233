"""A worker without memory: the unit goes to another node."""

import os

import pytest
import torch
from helpers_stages import sent_by_value
from helpers_study import make, make_models, make_study, make_tokens, run, table_bytes

from universal_ray.stages.correlations.stage import CorrelationsStage
from universal_ray.stages.correlations.worker import MomentsWorker

SHORT = "UNIVERSAL_RAY_TEST_SHORT_OF_MEMORY"


class Greedy(MomentsWorker):
    """On nodes that are short, sums ask for more memory than any machine has."""

    def _sum(self, *arguments):
        if SHORT in os.environ:
            torch.empty(2**55)
        return super()._sum(*arguments)


@pytest.fixture(autouse=True)
def by_value(request):
    with sent_by_value(request.module):
        yield


@pytest.mark.cluster
def test_unit_goes_to_a_node_that_has_memory(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(CorrelationsStage, "worker", Greedy)
    nodes.add(1)
    nodes.add(1, **{SHORT: "1"})
    inputs = make_models(tmp_path, "ab"), make_tokens(tmp_path / "tokens")
    study = make_study(tmp_path / "run", *inputs, workers=2, address=nodes.address)
    store = run(study)
    failures = store.get_json("progress.json")["failures"]
    reasons = [failure["reason"] for failure in failures]
    short = [reason for reason in reasons if "no memory left" in reason]
    # The worker is replaced, and with it goes what waits for the same one.
    assert short and all("actor died" in reason for reason in reasons if reason not in short)
    plain = make(make_study(tmp_path / "plain", *inputs))
    assert table_bytes(plain) == table_bytes(store)
