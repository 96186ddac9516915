"""The operator: pure decisions (`core`), the I/O around them (`shell`), and the embedded backend of `rlhf run` (`local`)."""
