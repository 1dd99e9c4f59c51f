"""Messages that kill their process, again and again, among innocent ones: the killers end as dead letters, alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest

from tests.faults.processes.stage import Body, Stage
from tests.programs import Program
from tests.waiting import wait_until

_KILL = "os._exit(9)"
_MOST = 5
_SUSPECT_FROM = 3  # this delivery and later ones are run alone
_LEASE = 3.0


@pytest.fixture
def chance() -> random.Random:
    """The same bodies in every run."""
    return random.Random(700)


@pytest.mark.timeout(240)
async def test_a_killer_among_two_thousand_is_dead_lettered_and_takes_nobody_along(
    stage: Stage, chance: random.Random
) -> None:
    stage.app(lease=_LEASE, concurrency=32, prefetch=200)
    bodies = _innocents(2000, 0.5, chance)
    bodies[700] = {"i": 700, "s": 0.25, "then": _KILL}
    await stage.publish_many(bodies)
    workers = stage.worker("--workers", "2")
    longest = await _settled(stage, bodies, {700}, 200)
    assert longest < 2 * _LEASE, f"{longest:.1f} s without progress"
    await _convicted(stage, workers, {700}, len(bodies))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("server_kind", ["redis-8.2", "redis-6.2"])
async def test_a_killer_among_two_hundred_is_dead_lettered_and_takes_nobody_along(
    stage: Stage, chance: random.Random
) -> None:
    stage.app(lease=_LEASE, concurrency=32, prefetch=60)
    bodies = _innocents(200, 0.1, chance)
    bodies[70] = {"i": 70, "s": 0.05, "then": _KILL}
    await stage.publish_many(bodies)
    workers = stage.worker("--workers", "2")
    await _settled(stage, bodies, {70}, 90)
    await _convicted(stage, workers, {70}, len(bodies))


@pytest.mark.timeout(150)
async def test_two_killers_are_told_apart_from_the_innocent_and_from_what_fails_for_ordinary_reasons(
    stage: Stage, chance: random.Random
) -> None:
    """Some innocents fail three times before they succeed: what they have spent on that is no guilt of theirs."""
    stage.app(lease=_LEASE, concurrency=16, prefetch=60)
    bodies = _innocents(200, 0.1, chance)
    for i in range(0, 200, 20):
        bodies[i] |= {"do": "raise ValueError", "times": 3}
    for i in (50, 130):
        bodies[i] = {"i": i, "s": 0.05, "then": _KILL}
    await stage.publish_many(bodies)
    workers = stage.worker("--workers", "2")
    await _settled(stage, bodies, {50, 130}, 130)
    await _convicted(stage, workers, {50, 130}, len(bodies))


@pytest.mark.timeout(120)
async def test_what_failed_four_times_for_ordinary_reasons_survives_a_killer_beside_it(stage: Stage) -> None:
    """Their fifth delivery is the last there is; the process dies beside them, and that is not their doing."""
    stage.app(lease=_LEASE, concurrency=8, prefetch=20)
    # Held back at their last delivery until the killer has struck.
    spent = {"do": "raise ValueError", "times": 4, "until": "struck"}
    bodies: list[Body] = [{"i": i, **spent} for i in range(4)]
    await stage.publish_many(bodies)
    workers = stage.worker("--workers", "2")
    await wait_until(lambda: all(5 in stage.deliveries(i) for i in range(4)), 60, stage.logs)
    beside = {event.pid for event in stage.of("start") if event.words[2] == "5"}
    killer: Body = {"do": f"if os.getpid() in {beside}: {_KILL}", "times": 1}

    async def struck() -> bool:
        if stage.told("worker.died"):
            return True
        await stage.publish(killer | {"i": 10 + len(stage.of("start"))})  # the other worker may have taken the last one
        return False

    await wait_until(struck, 30, stage.logs)
    stage.touch("struck")
    await stage.handles(range(4), 60)
    await stage.all_is_settled(letters=0)
    workers.sigterm()
    assert await workers.ended(40) == 0, workers.log


def _innocents(count: int, longest: float, chance: random.Random) -> list[Body]:
    return [{"i": i, "s": chance.random() * longest} for i in range(count)]


async def _settled(stage: Stage, bodies: list[Body], killers: set[int], timeout: float) -> float:
    """Wait until all innocents are handled and the killers dead-lettered; gives the longest time without progress."""
    innocents = {body["i"] for body in bodies} - killers

    async def all_over() -> bool:
        return innocents <= stage.handled and len(await stage.group.letters()) >= len(killers)

    def left() -> str:
        return f"settled; {sorted(innocents - stage.handled)[:20]} are missing\n{stage.logs()}"

    await wait_until(all_over, timeout, left)
    return _longest_standstill(event.at for event in stage.of("end"))


def _longest_standstill(times: Iterable[float]) -> float:
    ordered = sorted(times)
    return max(later - earlier for earlier, later in pairwise(ordered))


async def _convicted(stage: Stage, workers: Program, killers: set[int], published: int) -> None:
    """The killers, and nobody else, were dead-lettered, after exactly as many deliveries as they may have."""
    letters = await stage.group.letters()
    assert {stage.number_in(letter.fields) for letter in letters} == killers
    for letter in letters:
        assert letter.facts["sw-deliveries"] == str(_MOST)
        assert f"its worker died {_MOST} times" in letter.reason
    for i in killers:
        # In company, one killer may strike before the handler of the other has started; alone, none can.
        in_company = _SUSPECT_FROM - 1 if len(killers) > 1 else 0
        assert stage.deliveries(i)[-_MOST + in_company :] == list(range(1 + in_company, _MOST + 1))
        assert len(stage.deliveries(i)) <= _MOST
    ends = Counter(event.words[1] for event in stage.of("end"))
    assert len(ends) == published - len(killers)
    await stage.all_is_settled(letters=len(killers))
    workers.sigterm()
    assert await workers.ended(40) == 0, workers.log
    await stage.group.check_nothing_is_left()
