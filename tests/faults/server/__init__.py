"""Servers that answer with an error, are restarted, paused, emptied or full, or have a wrong clock."""
