"""The numbers of streams and groups: how far behind, how fast, how much memory; a worker does without them."""
