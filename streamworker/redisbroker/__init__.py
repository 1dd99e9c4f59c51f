"""The Redis backend: the only package that imports the driver."""
