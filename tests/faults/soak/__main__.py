"""``python -m tests.faults.soak``: the soak by hand; a table on stdout, progress on stderr, 1 for any violation."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.faults.soak.breaking import KINDS
from tests.faults.soak.session import Plan, soak
from tests.servers import KINDS as SERVERS


def main() -> int:
    """Run what the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long faults come")
    parser.add_argument("--seed", type=int, default=7, help="decides about messages, faults and pauses")
    parser.add_argument("--server", choices=list(SERVERS), default="valkey-9.1")
    parser.add_argument("--workers", type=int, default=3, help="lone workers, beside a supervisor with two")
    parser.add_argument("--rate", type=float, default=60.0, help="messages a second")
    parser.add_argument("--faults", default=",".join(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--json", type=Path, help="write figures and violations to this file")
    parser.add_argument("--folder", type=Path, help="keep journal and logs here")
    given = parser.parse_args()
    faults = tuple(given.faults.split(","))
    if unknown := set(faults) - set(KINDS):
        parser.error(f"--faults {','.join(unknown)}: the kinds are {', '.join(KINDS)}")
    plan = Plan(
        seconds=given.minutes * 60, seed=given.seed, server=given.server, workers=given.workers, rate=given.rate,
        faults=faults,
    )  # fmt: skip
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # the proxy writes to connections that it has broken
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's background job ignores it
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends with what it started
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures, violations = asyncio.run(soak(plan, folder))
    print(figures.table())
    print("\n".join(["", f"{len(violations)} violations", *violations]))
    if given.json is not None:
        given.json.write_text(json.dumps({**asdict(figures), "violations": violations}, indent=2))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
