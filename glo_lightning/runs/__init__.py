"""What makes a run impossible to lose: its folder, its checkpoints, its environment, losses that are not finite."""
