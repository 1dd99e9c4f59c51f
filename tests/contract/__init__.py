"""What every backend must do, held against the protocols of ``streamworker/broker.py`` and against nothing else."""
