"""The mathematics: pure functions of tensors, torch and numpy alone."""
