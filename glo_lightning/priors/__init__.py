"""Priors: distributions over codes, fitted after the training, to draw new codes from."""
