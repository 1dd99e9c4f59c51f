"""What goes wrong between a process and its server, and nowhere else."""
