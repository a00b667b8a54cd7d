"""The game's training: from settings to a run and its checkpoints, and from a checkpoint to a bundle."""
