"""The second stage: statistics of neurons, scores of features, families."""
