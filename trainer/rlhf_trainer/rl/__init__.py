"""The arithmetic of alignment: tensors in, tensors out, one formula and its source a function.

Nothing here knows of models, files, workers or stages, so every function is compared with a formula re-derived in
`tests/oracle/`. Shapes: b sequences, t positions of a whole row, r response positions, h hidden, v vocabulary.
"""
