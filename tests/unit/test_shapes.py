"""Shapes that a function or a dataclass tells are checked whenever it is called, in tests alone."""

from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from universal_ray.features.align import AlignedText
from universal_ray.maths.statistics.descriptions import correlated


def test_a_function_that_is_given_another_shape_raises():
    assert len(correlated(torch.ones(5, 2, dtype=torch.float64))) == 2
    with pytest.raises(TypeCheckError, match="sums_5R"):
        correlated(torch.ones(4, 2, dtype=torch.float64))


def test_a_dataclass_that_is_made_of_another_shape_raises():
    parts: dict[str, Any] = {"text": "ab", "passages": ((0, 2),), "start_T": np.array([0, 1])}
    white_C = np.zeros(2, bool)
    AlignedText(**parts, stop_T=np.array([1, 2]), white_C=white_C)
    with pytest.raises(TypeCheckError, match="stop_T"):
        AlignedText(**parts, stop_T=np.array([1, 2, 3]), white_C=white_C)
