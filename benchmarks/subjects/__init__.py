"""The subjects: programs, each run by itself with a job in JSON; it prints its result in JSON."""
