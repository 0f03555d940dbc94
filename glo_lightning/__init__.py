"""Generative Latent Optimization (GLO) on PyTorch Lightning."""
