"""Carries out what is planned: pools that grow, shrink, are renewed or lose workers on time."""

from collections.abc import Sequence
from functools import partial

from simulator.cluster.fleet.lives import Fleet
from simulator.cluster.pools.wiring import Ways
from simulator.elastic import Change
from simulator.errors import ConfigError


def schedule(changes: Sequence[Change], fleet: Fleet, ways: Ways) -> None:
    """Let every change happen at its time.

    Raises:
        ConfigError: a change of a pool that is not there.
    """
    for at, change in enumerate(changes):
        key = f"changes[{at}]"
        for name, pool in (("pool", change.pool), ("to", change.to)):
            if pool is not None and pool not in fleet.pools:
                known = ", ".join(fleet.pools)
                raise ConfigError(f"{key}.{name} must be one of {known} but got {pool!r}")
        fleet.at(change.at_s, partial(_carry_out, change, key, fleet, ways))


def _carry_out(change: Change, key: str, fleet: Fleet, ways: Ways) -> None:
    role = change.pool or ""
    if change.workers is not None:
        fleet.want(role, change.workers, "planned")
    elif change.restart is not None:
        fleet.renew(role, change.restart, "planned")
    elif change.flip is not None:
        fleet.flip(role, change.to or "", change.flip, "planned")
    elif change.fail is not None:
        for number in fleet.oldest(role, change.fail) if role else [change.fail]:
            fleet.check_number(number, f"{key}.fail")
            fleet.fail(number, "planned failure")
    elif change.bandwidth is not None:
        if change.worker is not None:
            fleet.check_number(change.worker, f"{key}.worker")
        whose = role if change.worker is None else change.worker
        ways.set_share(whose, change.bandwidth)
        fleet.tell_of_links(whose, change.bandwidth)
