"""streamworker beside the bare loop, which is the limit, and beside its peers: ``python -m benchmarks``."""
