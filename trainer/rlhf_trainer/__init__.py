"""What runs inside an attempt: run.json and the volume in; checkpoints, an output with its manifest and an exit code out."""
