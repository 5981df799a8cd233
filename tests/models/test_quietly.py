"""Loading a model says nothing, and leaves the bars of others as they were."""

import warnings

import pytest
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging as messages

from universal_ray.models.checkpoint import quietly


@pytest.mark.parametrize("bars", [False, True])
@pytest.mark.parametrize("of_hub", [False, True])
def test_bars_are_off_for_a_while_and_then_as_they_were(bars, of_hub):
    def told() -> tuple[bool, bool]:
        return messages.is_progress_bar_enabled(), not are_progress_bars_disabled()

    def put(bars: bool, of_hub: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (messages.enable_progress_bar if bars else messages.disable_progress_bar)()
            (enable_progress_bars if of_hub else disable_progress_bars)()

    before = told()
    put(bars, of_hub)
    try:
        level, mine = messages.get_verbosity(), told()
        with pytest.raises(OSError), quietly():
            assert told() == (False, False)
            raise OSError
        assert told() == mine and messages.get_verbosity() == level
    finally:
        put(*before)
