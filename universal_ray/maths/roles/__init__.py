"""What neurons do, told from weights, responses and interventions: the measures."""
