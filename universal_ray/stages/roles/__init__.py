"""The third stage: what neurons do."""
