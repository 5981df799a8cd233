"""The study on planted models, made once for all files that start from it."""

from helpers_planted_study import inputs, run, several_shards

__all__ = ["inputs", "run", "several_shards"]
