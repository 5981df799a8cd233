"""From sums over tokens to correlations, baselines and who is universal."""
