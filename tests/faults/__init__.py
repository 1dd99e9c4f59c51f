"""Faults brought about on purpose, and what must come of each; run by ``pytest tests/faults``."""
