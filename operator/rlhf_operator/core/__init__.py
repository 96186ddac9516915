"""Pure decisions: no I/O, clock, random numbers or logging. Frozen values in, frozen values out. Start with `decide.py`."""
