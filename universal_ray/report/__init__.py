"""What a person sees of a study."""
