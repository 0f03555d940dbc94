"""What is done with a trained run: priors, paths through the learned space, pictures, evaluation, export."""
