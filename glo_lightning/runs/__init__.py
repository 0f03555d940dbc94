"""The files of a run: its folder and lock, its checkpoints, and the environment that it was made in."""
