"""The laws every run must keep; a broken one is a bug of this program."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.clock import Clock
from simulator.cluster.fleet.lives import Fleet
from simulator.cluster.ledger import Ledger
from simulator.cluster.moves.handoff import Handoff
from simulator.cluster.moves.migration import Migration
from simulator.cluster.pools.tiers import Tiers
from simulator.cluster.traffic.endings import Endings
from simulator.cluster.workers.worker import Load, Worker
from simulator.errors import InvariantError
from simulator.record import STATUSES, RunRecord

Columns = Mapping[str, NDArray[np.float64] | NDArray[np.int32]]

ORDER = (
    ("arrival_s", "admitted_s"),
    ("admitted_s", "prefill_queue_enter_s"),
    ("prefill_queue_enter_s", "prefill_start_s"),
    ("prefill_start_s", "prefill_end_s"),
    ("prefill_end_s", "first_token_s"),
    ("transfer_queue_enter_s", "transfer_start_s"),
    ("transfer_start_s", "transfer_end_s"),
    ("prefill_end_s", "transfer_end_s"),
    ("transfer_end_s", "decode_queue_enter_s"),
    ("decode_queue_enter_s", "decode_join_s"),
    ("decode_join_s", "second_token_s"),
    ("first_token_s", "second_token_s"),
    ("first_token_s", "finish_s"),
    ("decode_join_s", "finish_s"),
    ("second_token_s", "finish_s"),
)
"""Pairs of moments of which the first never lies after the second."""

SEEN = ("first_token_s", "second_token_s")
"""What a client saw stays, while a request that was lost passes the other moments again."""


class Accounts(Protocol):
    """What the laws read of a simulation."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The requests."""
        ...

    @property
    def endings(self) -> Endings:
        """How many of them ended, and how."""
        ...

    @property
    def fleet(self) -> Fleet:
        """Every life, and the racks they stand in."""
        ...

    @property
    def handoff(self) -> Handoff:
        """The transfers between pools."""
        ...

    @property
    def migration(self) -> Migration:
        """The transfers of leavers."""
        ...

    @property
    def tiers(self) -> Tiers:
        """The memories beneath workers' caches."""
        ...

    @property
    def workers(self) -> Sequence[Worker]:
        """Every worker there has been."""
        ...

    @property
    def loads(self) -> Sequence[Load]:
        """What each router sees."""
        ...


def audit(simulation: Accounts, record: RunRecord) -> None:
    """Check every law on a run as it stands.

    Raises:
        InvariantError: naming the first law that does not hold, with the numbers.
    """
    for broken in (*_moments(record), *_balances(simulation), *_totals(simulation)):
        raise InvariantError(broken)


def _moments(record: RunRecord) -> Iterator[str]:
    columns = record.requests
    order: tuple[tuple[str, str], ...] = ORDER
    if record.first_token == "decode":  # noqa: S105 - a place, not a secret
        order = (*ORDER, ("transfer_end_s", "first_token_s"))
    for earlier, later in order:
        wrong = columns[earlier] > columns[later]
        if record.room is not None:
            record.room.shed()
        if later in SEEN and earlier not in SEEN:
            wrong &= columns["retries"] == 0
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            yield (
                f"causality: request {at} has {earlier} {columns[earlier][at]!r} after {later} "
                f"{columns[later][at]!r}"
            )
    here = (columns["prefill_worker"] == columns["decode_worker"]) & (columns["decode_worker"] >= 0)
    sent = here & ~np.isnan(columns["transfer_queue_enter_s"])
    if sent.any():
        at = int(np.flatnonzero(sent)[0])
        number = columns["decode_worker"][at]
        yield f"transfers: request {at} was handed over to worker {number}, which computed it"
    completed = columns["status"] == STATUSES.index("completed")
    if np.isnan(columns["finish_s"][completed]).any():
        yield "causality: a completed request has no finish"
    if not np.isnan(columns["finish_s"][~completed]).all():
        yield "causality: an unfinished request has a finish"


def _balances(simulation: Accounts) -> Iterator[str]:
    """Yield what is wrong with accounts that hold at every moment."""
    for worker in simulation.workers:
        if not 0 <= worker.used <= worker.capacity:
            yield (
                f"KV accounting: worker {worker.number} holds {worker.used} of "
                f"{worker.capacity} blocks"
            )
        idle = 0 if worker.cache is None else worker.cache.idle
        if not 0 <= idle <= worker.capacity - worker.used:
            yield (
                f"KV accounting: worker {worker.number} has {idle} idle blocks cached beside "
                f"{worker.used} of {worker.capacity}"
            )
    for store in simulation.tiers.stores:
        if not 0 <= store.cache.idle <= store.capacity - store.reserved <= store.capacity:
            yield (
                f"KV accounting: a tier has {store.cache.idle} blocks beside {store.reserved} set "
                f"aside of {store.capacity}"
            )
    for sent in (simulation.handoff, simulation.migration, simulation.tiers):
        moving = sent.started_bytes - sent.delivered_bytes - sent.bytes_in_flight
        moving -= sent.dropped_bytes
        if abs(moving) > 1e-9 * max(1.0, sent.started_bytes):
            yield f"link accounting: {moving} bytes are neither under way nor delivered"
    for load in simulation.loads:
        if min((*load.requests, *load.tokens, *load.kv_blocks), default=0) < 0:
            yield "routing: a worker's load is negative"


def _totals(simulation: Accounts) -> Iterator[str]:
    """Yield what is wrong with accounts that close when every request is done."""
    ledger, workers, fleet = simulation.ledger, simulation.workers, simulation.fleet
    now = simulation.clock.now
    if not simulation.endings.closed:
        return
    columns = {**ledger.columns(), "generated": np.asarray(ledger.generated)}
    counts = np.bincount(columns["status"].astype(np.int64), minlength=len(STATUSES))
    lost = counts[0] - simulation.endings.never
    if lost or counts.sum() != ledger.size:
        yield f"conservation: {lost} requests are neither finished, rejected, failed nor unsent"
    served = columns["status"] == STATUSES.index("completed")
    begun = served | (columns["generated"] > 0)  # its prompt was computed at least once
    wanted = int(columns["output_tokens"][served].sum(dtype=np.int64))
    wanted += ledger.unseen_tokens
    wanted += int(columns["generated"][begun & ~served].sum(dtype=np.int64))
    emitted = sum(worker.decode_tokens + worker.prompts_closed for worker in workers)
    if emitted != wanted:
        yield f"tokens: {emitted} output tokens were produced but {wanted} were asked for"
    resumed = sum(worker.prompts_closed for worker in workers) - int(begun.sum())
    prompts = int(columns["input_tokens"][begun].sum(dtype=np.int64)) + resumed
    prompts += int(columns["recomputed_tokens"].sum(dtype=np.int64))
    prompts += ledger.wasted_tokens
    prompts -= int(columns["cached_tokens"].sum(dtype=np.int64))
    computed = sum(worker.prefill_tokens for worker in workers)
    if computed != prompts:
        yield f"tokens: {computed} prompt tokens were computed but {prompts} were due"
    held = sum(life.crew.spec.layout.gpus * life.allocated_s(now) for life in fleet.lives)
    if abs(held - fleet.gpu_seconds) > 1e-9 * max(1.0, held):
        yield f"GPU accounting: lives held {held!r} GPU-seconds, the racks {fleet.gpu_seconds!r}"
    yield from _kept(simulation)
    for load in simulation.loads:
        if any((*load.requests, *load.tokens, *load.kv_blocks)):
            yield "routing: a load remains although every request is done"


def _kept(simulation: Accounts) -> Iterator[str]:
    """Yield which memory is still taken although every request is done."""
    for store in simulation.tiers.stores:
        if store.reserved:
            yield f"KV accounting: a tier still has {store.reserved} blocks set aside"
    for worker in simulation.workers:
        if worker.used:
            yield f"KV accounting: worker {worker.number} still holds {worker.used} blocks"
