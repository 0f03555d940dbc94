"""What lies on disk of a run: its folder and lock, its checkpoints, what it was made with."""
