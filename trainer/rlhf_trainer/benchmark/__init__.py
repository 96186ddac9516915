"""The parts of `python -m rlhf_trainer.bench`."""
