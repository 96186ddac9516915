"""What survives a process: checkpoints, manifests and random state, written whole or not at all."""
