"""Several services, each a model with its pools, traffic and policies, under one GPU quota.

::

    from simulator.services import Services, simulate_services

    results = simulate_services(Services(services={"chat": chat, "coder": coder}))
    print(results.summary["services"]["coder"]["slo_attainment"])
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from simulator.aggregates import Aggregates
from simulator.cluster.together import Service, run_together
from simulator.errors import ConfigError
from simulator.experiment import (
    Experiment,
    Fed,
    OnProgress,
    feed,
    options_of,
    pools_text,
    prices_of,
)
from simulator.joined import joined
from simulator.policies.quota import FirstCome, Quota
from simulator.results import Results, shared_slo
from workloads.trace import TraceMeta

MOST = 64
"""Services of one run."""

TITLED = 4
"""Services, or kinds of them, that a title names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Experiments by name whose deployments share ``elastic.quota_gpus`` by a rule, ``quota``.

    The fabric, the quota, where first tokens are seen and the end of the run are the same for all.
    ``measured`` are statistics of a run of such traffic to put results beside.

    Raises:
        ConfigError: no service, too many, or settings that differ.
    """

    services: Mapping[str, Experiment]
    quota: Quota = field(default_factory=FirstCome)
    measured: Aggregates = field(default_factory=Aggregates)

    def __post_init__(self) -> None:
        if not 1 <= len(self.services) <= MOST:
            raise ConfigError(
                f"services: there must be 1 to {MOST} of them but got {len(self.services)}"
            )
        for what, alike in (
            ("fabric", {repr(each.deployment.fabric) for each in self._all}),
            ("elastic.quota_gpus", {each.deployment.elastic.quota_gpus for each in self._all}),
            ("first_token", {each.deployment.first_token for each in self._all}),
            ("until_s", {each.until_s for each in self._all}),
        ):
            if len(alike) > 1:
                raise ConfigError(f"services: {what} must be the same for all of them")

    @property
    def _all(self) -> Iterable[Experiment]:
        return self.services.values()


def simulate_services(
    services: Services, *, config: str = "", progress: OnProgress | None = None
) -> Results:
    """Run all services in one time and return what happened, as one run.

    Requests, workers and decisions have a column ``service``, and the summary tells of each by its
    own targets. ``config`` is the text kept as the run's ``config.yaml``.

    Raises:
        TraceError, ConfigError: as :func:`simulator.experiment.simulate`.
    """
    started = time.perf_counter()
    measured = services.measured.read()
    fed = {name: feed(each, each.trace()) for name, each in services.services.items()}
    count = _Counted(fed, progress)
    records = run_together(
        {
            name: Service(
                deployment=each.deployment,
                traffic=fed[name].traffic,
                options=options_of(each, fed[name], count.of(name)),
            )
            for name, each in services.services.items()
        },
        services.quota,
    )
    identities = {name: each.identity for name, each in fed.items()}
    record, identity = joined(records, identities)
    experiments = services.services
    context: dict[str, Any] = {
        "config": config,
        "seed": next(iter(experiments.values())).seed,
        "title": _title(experiments),
        "model": _distinct(each.deployment.model.name for each in experiments.values()),
        "workload": _distinct(each.meta.name for each in fed.values()),
        "accounting": _accounts({name: each.meta for name, each in fed.items()}),
        "measured": measured,
        "max_context": min(each.deployment.model.max_context for each in experiments.values()),
        "prices": _prices(experiments.values()),
        "quota_gpus": next(iter(experiments.values())).deployment.elastic.quota_gpus,
        "wall_s": time.perf_counter() - started,
    }
    slo = shared_slo({name: each.slo for name, each in experiments.items()})
    return Results.from_record(record, slo=slo, context=context, identity=identity)


def _title(experiments: Mapping[str, Experiment]) -> str:
    """Return what each service is; of many, how many are what, or how many models they are of."""
    told = {
        name: f"{each.deployment.model.name} on {each.deployment.gpu.name}, "
        f"{pools_text(each.deployment)}"
        for name, each in experiments.items()
    }
    if len(told) <= TITLED:
        return "; ".join(f"{name}: {what}" for name, what in told.items())
    models = Counter(each.deployment.model.name for each in experiments.values())
    if len(set(told.values())) == 1:
        return f"{len(told)} services, each {next(iter(told.values()))}"
    for alike in (Counter(told.values()), models):
        if len(alike) <= TITLED:
            parts = "; ".join(f"{count} × {what}" for what, count in alike.most_common())
            return f"{len(told)} services: {parts}"
    return f"{len(told)} services of {len(models)} models"


def _distinct(names: Iterable[str]) -> str:
    """Return the names, each once, in their order; of many how many there are."""
    once = list(dict.fromkeys(names))
    more = len(once) - TITLED
    return ", ".join(once[:TITLED]) + (f" and {more} others" if more > 0 else "")


class _Counted:
    """Adds up the progress of all services."""

    def __init__(self, fed: Mapping[str, Fed], progress: OnProgress | None) -> None:
        self._done = dict.fromkeys(fed, 0)
        self._whole = sum(len(each.traffic.arrival_s) for each in fed.values())
        self._progress = progress

    def of(self, name: str) -> OnProgress | None:
        """Return what one service tells of its progress."""
        progress = self._progress
        if progress is None:
            return None

        def advance(now: float, done: int, _: int) -> None:
            self._done[name] = done
            progress(now, sum(self._done.values()), self._whole)

        return advance


def _accounts(metas: Mapping[str, TraceMeta]) -> dict[str, Any]:
    """Return what reading all traffic dropped, and each service's own account."""
    drops: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for meta in metas.values():
        drops.update(meta.drops)
        tokens.update(meta.dropped_tokens)
    return {
        "rows_read": sum(meta.rows_read for meta in metas.values()),
        "tokens_read": sum(meta.tokens_read or 0 for meta in metas.values()),
        "drops": dict(drops),
        "dropped_tokens": dict(tokens),
        "warnings": [f"{name}: {text}" for name, meta in metas.items() for text in meta.warnings],
        "services": {name: asdict(meta) for name, meta in metas.items()},
    }


def _prices(experiments: Iterable[Experiment]) -> dict[str, float | None]:
    """Return what an hour of each GPU costs, ``None`` where services do not agree."""
    found: dict[str, float | None] = {}
    for each in experiments:
        for name, price in prices_of(each.deployment).items():
            found[name] = price if found.get(name, price) == price else None
    return found
