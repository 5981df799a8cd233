"""What neurons do: roles told from weights, from sums over tokens, and from interventions."""
