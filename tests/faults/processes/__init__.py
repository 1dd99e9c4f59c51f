"""Faults of worker processes and of handlers."""
