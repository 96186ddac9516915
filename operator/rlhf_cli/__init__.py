"""The `rlhf` command: job files and keystrokes in, tables and exit codes out. Nothing here starts a stage by itself."""
