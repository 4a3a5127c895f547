"""What a simulation leaves behind: plain columns, before any statistics.

Times are float64 seconds since the start of the run, ``nan`` where the request never got there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TIMES = (
    "arrival_s",
    "admitted_s",
    "prefill_queue_enter_s",
    "prefill_start_s",
    "prefill_end_s",
    "first_token_s",
    "transfer_queue_enter_s",
    "transfer_start_s",
    "transfer_end_s",
    "decode_queue_enter_s",
    "decode_join_s",
    "second_token_s",
    "finish_s",
)
"""Time columns of a request, in the order a request passes them."""

COUNTS = (
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "preemptions",
    "recomputed_tokens",
    "retries",
    "resends",
    "prefill_worker",
    "decode_worker",
    "status",
    "reason",
)
"""int32 columns of a request; workers are -1 where none, status and reason index what follows."""

STATUSES = ("incomplete", "completed", "rejected", "failed")
REASONS = (
    "",
    "exceeds_kv_capacity",
    "exceeds_context",
    "exceeds_prefill_kv_capacity",
    "worker_lost",
    "timeout",
    "cancelled",
    "queue_full",
    "early_rejection",
    "shed",
)
TURNED_AWAY = REASONS[-3:]
"""Reasons of an admission policy, which could have let the request in."""

GAUGES = (
    *("waiting", "running", "kv_blocks", "busy_s", "sent_bytes", "received_bytes"),
    "cached_blocks",
)
"""Gauges sampled per worker: queue length, requests in the batch (or being prefilled), KV blocks in
use (reserved ones included), the cumulative busy seconds and bytes sent and received so far, and
the blocks of no request that its prefix cache keeps."""


class Room(Protocol):
    """Where columns lie that are too large for memory."""

    def shed(self) -> None:
        """Leave to the file what lies in memory of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One worker's life: its pool (``prefill``, ``decode`` or ``mixed``), size and totals.

    It was asked for, got its GPUs, served, drained and ended at these seconds, ``nan`` where it
    never got there; ``allocated_s`` is how long it held its GPUs. ``state`` is its last, ``why`` it
    was asked for and ``because`` of what it ended are words. ``domain`` is the first scale-up
    domain it lay in, -1 if it never got a place. Where it has a ``prefix_cache``,
    ``found_tokens`` of prompts had not to be computed, which would have taken some ``spared_s``,
    and ``kept_tokens`` not to be transferred; ``evicted_blocks`` made room. ``service`` is whose it
    was, where several share the GPUs.
    """

    worker: int
    pool: str
    gpus: int
    gpu: str
    kv_blocks: int
    block_size: int
    max_transfer_bandwidth: float
    busy_s: float
    steps: int
    prefill_tokens: int
    decode_tokens: int
    kv_block_seconds: float
    allocated_s: float
    state: str = "ready"
    why: str = "initial"
    because: str = "end of run"
    domain: int = 0
    asked_s: float = 0.0
    granted_s: float = 0.0
    ready_s: float = 0.0
    draining_s: float = math.nan
    ended_s: float = math.nan
    prefix_cache: bool = False
    found_tokens: int = 0
    spared_s: float = 0.0
    kept_tokens: int = 0
    evicted_blocks: int = 0
    service: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierInfo:
    """A memory beneath the KV caches, in all its ``places`` together.

    At the end it has ``blocks`` of its ``capacity_blocks``. Of prompts, ``hit_tokens`` were loaded
    from it; ``evicted_blocks`` made room or were not used for too long. ``prefetched_tokens``, and
    ``prefetched_bytes`` with those of blocks that did not come whole, were brought up from it to
    host memory for prompts that have left their queue; ``prefetch_used_bytes`` of it spared one
    computing.
    """

    name: str
    places: int
    capacity_blocks: int
    blocks: int
    hit_tokens: int
    loaded_bytes: float
    written_bytes: float
    evicted_blocks: int
    prefetched_tokens: int = 0
    prefetched_bytes: float = 0.0
    prefetch_used_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GapHistogram:
    """All inter-token gaps, pooled: ``counts`` over n + 1 rising ``edges`` in seconds.

    The edges are log-spaced, but for a first bin from 0 on and a last one without end.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    min_s: float
    max_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything one simulation produced; ``tiers`` are the memories beneath its KV caches.

    ``requests`` has one entry per name in :data:`TIMES` and :data:`COUNTS`, each of length n.
    ``timeline`` has ``time_s`` (T samples), and per gauge of :data:`GAUGES` an array (T, workers).
    Gauges are NaN while a worker is not ready. ``events`` are ``(time_s, kind, worker, detail)``
    rows: what happened to workers (-1: to a pool). ``decisions`` are a controller's, a mapping of
    its fields each. ``room`` is where the columns of a large run lie. ``rows`` says which of the
    traffic's requests these are (``None``: the first n); ``never_sent`` of them never arrived, as
    they waited for one that failed.
    """

    requests: Mapping[str, NDArray[np.float64] | NDArray[np.int32]]
    timeline: Mapping[str, NDArray[np.float64]]
    workers: tuple[WorkerInfo, ...]
    events: tuple[tuple[float, str, int, str], ...]
    gaps: GapHistogram
    end_s: float
    first_token: str = "decode"  # noqa: S105 - where the first token is emitted, not a secret
    decisions: tuple[Mapping[str, object], ...] = ()
    notes: Mapping[str, object] = field(default_factory=dict)
    room: Room | None = None
    rows: NDArray[np.uint32] | None = None
    never_sent: int = 0
    tiers: tuple[TierInfo, ...] = ()
