"""The first stage: sums over tokens, correlations, baselines, who is universal."""
