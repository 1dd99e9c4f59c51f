"""A real worker that dies at a fault point: ``python -m tests.faults.worker after-XREADGROUP:3 run app:app …``."""

from __future__ import annotations

import os
import signal
import sys

from streamworker.cli import main
from tests.faults.faultpoints import FaultPoint, arm


def die() -> None:
    """End this process as a power failure would: nothing that stands below is run."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    arm(FaultPoint.parse(sys.argv.pop(1)), die)
    main()
