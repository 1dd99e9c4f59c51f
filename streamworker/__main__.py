"""``python -m streamworker`` is the command ``streamworker``."""

from streamworker.cli import main

main()
