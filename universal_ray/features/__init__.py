"""What neurons are explained by: the bank of features and the families."""
