"""The mathematics: pure functions of tensors, torch, numpy and scipy alone."""
