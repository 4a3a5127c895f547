"""The contract of a rule for a quota: whole workers, within what there is, and no floor broken."""

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from simulator.policies.quota import Asking, Place, Quota
from simulator.policies.ticks import LEAST_INTERVAL_S
from simulator.testing.contract import Subject, asked_twice, same

SERVICES = ("chat", "coder", "search")
LARGE = 256
"""Services, of two pools each, with which a look is timed."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """The rule, the services it is shown and the GPUs they share."""

    subject: Subject
    services: tuple[str, ...]
    quota_gpus: int
    overlap: bool


def check_quota(
    policy: Quota,
    *,
    services: Sequence[str] = SERVICES,
    quota_gpus: int = 24,
    overlap: bool = False,
    look_s: float = 0.05,
) -> None:
    """See to it that a rule for a quota of ``quota_gpus`` keeps its contract for ``services``.

    Its interval is none or long enough; what it refuses it says in words. Floors are whole GPUs and
    add up to no more than the quota. Ceilings are whole workers of pools there are: no fewer than a
    pool's least, nor than it has where its service holds no more than its floor; no more than its
    most, nor than the quota's GPUs, and all together no more than these either, unless pools are at
    their least (``overlap``: unless the rule lets them compete). It survives services without a
    pool, pools without a worker, nobody who waits and floods. The same question has the same
    answer, today, after others and in another run; it writes to nothing it is shown and keeps
    nothing in itself; and a look at 256 services of two pools takes ``look_s`` CPU seconds at most.

    Raises:
        ContractError: it does not; the text names the rule and what it broke.
    """
    rule = _Rule(Subject("quota", policy), tuple(services), quota_gpus, overlap)
    _check_words(rule)
    floors = _floors(rule)
    shown = list(_asking(rule))
    first = [_ceilings(rule, asking, where) for where, asking in shown]
    for (where, asking), told in zip(shown, first, strict=True):
        for place, most in told.items():
            _check_ceiling(rule, asking, place, most, where)
        _check_floors(rule, asking, told, floors, where)
        _check_sum(rule, asking, told, where)
    for (where, asking), told in reversed(list(zip(shown, first, strict=True))):
        if not same(_ceilings(rule, asking, where), told):
            raise rule.subject.broke(f"answered otherwise after other questions {where}")
    _quickly(rule, look_s)


def _check_words(rule: _Rule) -> None:
    """Check what it says of itself and of what it is for."""
    subject, policy = rule.subject, rule.subject.policy
    interval = subject.asked("about its interval", lambda: policy.interval_s)
    if interval is not None and not (
        type(interval) in (int, float) and LEAST_INTERVAL_S <= interval < math.inf
    ):
        raise subject.broke(
            f"has interval_s {interval!r}; None or at least {LEAST_INTERVAL_S:g} s is due"
        )
    reserves = subject.asked("about what it reserves", lambda: policy.reserves)
    if type(reserves) is not bool:
        raise subject.broke(f"has reserves {reserves!r}; True or False is due")
    for gpus in (None, rule.quota_gpus):
        where = "without a quota" if gpus is None else f"of {gpus} GPUs"
        told = asked_twice(subject, where, lambda: policy.refused(rule.services, gpus))  # noqa: B023
        if not isinstance(told, str) or "\n" in told:
            raise subject.broke(f"refused {told!r} {where}; one sentence or an empty text is due")
        if told and gpus is not None:
            raise subject.broke(
                f"refuses {', '.join(rule.services)} {where}: {told}; name by services and "
                "quota_gpus what it is for"
            )


def _floors(rule: _Rule) -> dict[str, int]:
    """Return every service's floor."""
    subject, count, quota = rule.subject, len(rule.services), rule.quota_gpus
    floors = {}
    for name in rule.services:
        where = f"about {name}'s floor"
        gpus = asked_twice(subject, where, lambda: subject.policy.floor(name, count, quota))  # noqa: B023
        if type(gpus) is not int or not 0 <= gpus <= quota:
            raise subject.broke(f"answered {gpus!r} {where}; 0 to {quota} GPUs are due")
        floors[name] = gpus
    if sum(floors.values()) > quota:
        raise subject.broke(f"has floors of {sum(floors.values())} GPUs in all, of {quota}")
    return floors


def _asking(rule: _Rule) -> Iterator[tuple[str, tuple[Asking, ...]]]:
    """Yield what it may come to be asked, in words and as the pools there are."""
    yield "where there is no pool", ()
    for waiting, desired, gpus in product((0, 1, 7, 10**6), (0, 1, 2), (1, 4)):
        for most, both in product((None, 3), (False, True)):
            roles = ("prefill", "decode") if both else ("mixed",)
            asking = tuple(
                Asking(name, role, gpus, desired, min(1, desired), most, waiting * (at % 3))
                for at, (name, role) in enumerate(product(rule.services, roles))
            )
            some = f"up to {2 * waiting:,} wait" if waiting else "nobody waits"
            yield f"where {some} at {len(asking)} pools of {desired} workers", asking


def _ceilings(rule: _Rule, asking: tuple[Asking, ...], where: str) -> Mapping[Place, int]:
    """Return what pools may have."""
    subject, shown = rule.subject, list(asking)
    told = asked_twice(subject, where, lambda: subject.policy.ceilings(shown, rule.quota_gpus))
    if not same(shown, list(asking)):
        raise subject.broke(f"wrote into what it was shown {where}")
    if not isinstance(told, Mapping):
        raise subject.broke(f"answered {told!r} {where}; ceilings by service and pool are due")
    return copy.deepcopy(told)


def _check_ceiling(
    rule: _Rule, asking: tuple[Asking, ...], place: Place, most: object, where: str
) -> None:
    """Check one pool's ceiling."""
    pools = {(each.service, each.pool): each for each in asking}
    if place not in pools:
        raise rule.subject.broke(f"named {place!r} {where}, a pool that is not there")
    pool = pools[place]
    fits = rule.quota_gpus // pool.gpus
    upper = max(pool.least, 1, fits if pool.most is None else min(fits, pool.most))
    if type(most) is not int or not pool.least <= most <= upper:
        raise rule.subject.broke(
            f"lets {'.'.join(place)} have {most!r} workers {where}; {pool.least} to {upper} are due"
        )


def _check_floors(
    rule: _Rule,
    asking: tuple[Asking, ...],
    told: Mapping[Place, int],
    floors: Mapping[str, int],
    where: str,
) -> None:
    """Check that nobody is to give up what its service may always have."""
    for name, floor in floors.items():
        own = [each for each in asking if each.service == name]
        if sum(each.desired * each.gpus for each in own) > floor:
            continue
        for each in own:
            has = each.desired if each.most is None else min(each.desired, each.most)
            if told.get((name, each.pool), has) < has:
                raise rule.subject.broke(
                    f"takes workers of {name}.{each.pool} {where}, which holds no more than its "
                    f"floor, {floor} GPUs"
                )


def _check_sum(
    rule: _Rule, asking: tuple[Asking, ...], told: Mapping[Place, int], where: str
) -> None:
    """Check that what is dealt out is there."""
    dealt = [(each, told.get((each.service, each.pool), 0)) for each in asking]
    gpus = sum(each.gpus * most for each, most in dealt)
    at_least = all(most <= max(1, each.least) for each, most in dealt)
    if gpus > rule.quota_gpus and not at_least and not rule.overlap:
        raise rule.subject.broke(f"deals out {gpus} GPUs of {rule.quota_gpus} {where}")


def _quickly(rule: _Rule, look_s: float) -> None:
    """Time looks at many services."""
    asking = [
        Asking(f"s{at}", role, 1, 2, 1, None, (at * 7919) % 97)
        for at, role in product(range(LARGE), ("prefill", "decode"))
    ]
    policy, looks = rule.subject.policy, 10

    def look() -> float:
        started = time.process_time()
        for _ in range(looks):
            policy.ceilings(asking, 8 * LARGE)
        return (time.process_time() - started) / looks

    each = rule.subject.quickest(f"with {LARGE} services", look, look_s)
    if each > look_s:
        raise rule.subject.broke(
            f"took {each:.3f} CPU s a look at {LARGE} services; {look_s:g} may be"
        )
