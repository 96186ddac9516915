"""What every rule of the API allows and forbids, once: unit tests ask the Python, cluster tests the API server."""
