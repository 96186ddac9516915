"""One readable loop for each stage type; `worker.py` calls `run` of the one that run.json names."""
