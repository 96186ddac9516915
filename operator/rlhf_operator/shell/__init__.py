"""I/O only: reads become an `Observed`, a `Plan` becomes writes. Decisions live in `core`."""
