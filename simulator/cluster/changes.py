"""Carries out what is planned: pools that grow, shrink, are renewed or lose workers on time."""

from collections.abc import Sequence
from functools import partial

from simulator.cluster.fleet import Fleet
from simulator.elastic import Change
from simulator.errors import ConfigError


def schedule(changes: Sequence[Change], fleet: Fleet) -> None:
    """Let every change happen at its time.

    Raises:
        ConfigError: a change of a pool that is not there.
    """
    for change in changes:
        if change.pool is not None and change.pool not in fleet.pools:
            raise ConfigError(
                f"change at {change.at_s:g} s: pool must be one of {', '.join(fleet.pools)} but "
                f"got {change.pool!r}"
            )
        fleet.at(change.at_s, partial(_carry_out, change, fleet))


def _carry_out(change: Change, fleet: Fleet) -> None:
    role = change.pool or ""
    if change.workers is not None:
        fleet.want(role, change.workers, "planned")
    elif change.restart is not None:
        fleet.renew(role, change.restart, "planned")
    elif change.fail is not None:
        doomed = fleet.oldest(role, change.fail) if role else [change.fail]
        for number in doomed:
            fleet.fail(number, "planned failure")
