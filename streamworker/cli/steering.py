"""What ``streamworker pause``, ``resume``, ``replay``, ``seek`` and ``claim`` do once their options are read."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Final

import click

from streamworker.cli.desk import whoami
from streamworker.cli.printing import agreed, print_unattended
from streamworker.logs import clean
from streamworker.monitoring.words import entries, label, name, number
from streamworker.operating.controls import Controls
from streamworker.operating.steering import Replayed

_TOLD: Final = 2.0  # seconds between two lines of progress


async def pause_now(controls: Controls, by: str | None) -> int:
    """Pause; returns the exit code."""
    if before := await controls.pause(by=by or whoami()):
        click.echo(f"{label(controls)} has been paused before, since {clean(before, 100)}")
    else:
        click.echo(f"{label(controls)} is paused: its workers stop reading within a second")
    return 0


async def resume_now(controls: Controls) -> int:
    """Resume; returns the exit code."""
    if await controls.resume():
        click.echo(f"{label(controls)} goes on: its workers read again within a second")
    else:
        click.echo(f"{label(controls)} was not paused")
    return 0


async def replay_now(
    controls: Controls, places: tuple[str, str, str | None], *, rate: float | None, dry_run: bool, restart: bool
) -> int:
    """Replay; returns the exit code."""
    wanted = await controls.range(*places)
    if not restart and (place := await controls.unfinished(wanted)) is not None:
        click.echo(f"goes on behind {place}, where it was interrupted; --restart begins anew", err=True)
    told = monotonic()

    def progress(sofar: Replayed) -> None:
        nonlocal told
        if sys.stderr.isatty() and monotonic() - told >= _TOLD:
            told = monotonic()
            click.echo(f"{number(sofar.copied)} so far, up to {(sofar.rest or '').removeprefix('(')}", err=True)

    done = await controls.replay(wanted, rate=rate, dry=dry_run, anew=restart, progress=progress)
    verb = "would be replayed to" if dry_run else "replayed to"
    left = f"; {number(done.pending)} pending left out" if done.pending else ""
    click.echo(f"{entries(done.copied)} {verb} {label(controls)}{left}")
    if done.copied and not dry_run:
        print_unattended(await controls.unattended())
    return 0


async def seek_now(controls: Controls, to: str, *, dry_run: bool, ask: bool) -> int:
    """Seek; returns the exit code."""
    plan = await controls.plan_seek(to)
    if plan.now == plan.then:
        click.echo(f"{label(controls)} has read up to {plan.now}: it is there already")
        return 0
    if plan.again or plan.skipped:
        what = f"skips {entries(plan.skipped)}" if plan.skipped else f"is given {entries(plan.again)} again"
    else:
        what = "skips and repeats nothing" if plan.exact else "skips or repeats more than 10 000 000 entries"
    click.echo(
        f"{label(controls)} has read up to {plan.now}; if it reads on behind {plan.then} it {what}", err=not dry_run
    )
    if dry_run:
        return 0
    if ask and not await agreed("Go there?"):
        return 1
    await controls.seek(plan)
    click.echo(f"{label(controls)} reads on behind {plan.then}")
    return 0


async def claim_now(controls: Controls, consumer: str, *, force: bool) -> int:
    """Claim; returns the exit code."""
    taken = await controls.claim(consumer, force=force)
    when = "in a few seconds" if taken.how == "marked dead" else "within a second"
    click.echo(f"{entries(taken.pending)} of {name(consumer)} {taken.how}: the workers take them {when}")
    return 0
