"""Models: found, checked, loaded, read and intervened on."""
