"""What prefix caches change on a trace: schedulers, splits of nodes, and prefetching from a store.

The nodes are ``experiment=policies/sixteen_nodes``; the traces are the reader's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from simulator.cache_tiers import POLICIES
from simulator.errors import ConfigError
from simulator.results import Results

EXPERIMENT = ("experiment=policies/sixteen_nodes", "workload=trace")
NODES = 16
SPLITS = tuple(range(2, NODES, 2))
RATES = (1.0, 2.0)
ENOUGH = 0.9
"""Share of requests in time that counts as enough."""

SCHEDULERS: Mapping[str, tuple[str, ...]] = {
    "random": ("router=random",),
    "by load": ("router=least_tokens",),
    "by load and the worker's own cache": ("router=estimated_ttft",),
    "the same, over a store for all": ("router=estimated_ttft", "cache_tiers=store"),
}
"""Mooncake's four, from the one published as worst to the best."""

STORES_GB_PER_S = (2.5, 5.0, 10.0, 20.0, 80.0)
RAISING: Mapping[str, tuple[str, ...]] = {
    "nothing beneath": ("cache_tiers=none",),
    "loaded when begun": ("cache_tiers=host_store",),
    **{
        policy: ("cache_tiers=hicache", f"cache_tiers.prefetch.policy={policy}")
        for policy in POLICIES
    },
}
"""What is done about prompts of which a store has something."""
HOST_GIB = 64.0

Simulate = Callable[[Sequence[str]], Results]
"""Runs an experiment of these overrides."""


class Scheduled(NamedTuple):
    """Mean TTFT in seconds and the share of prompt tokens found, under one scheduler."""

    ttft_s: float
    found: float


class Split(NamedTuple):
    """Share of requests in time and mean TTFT in seconds, of one split."""

    in_time: float
    ttft_s: float


class Raised(NamedTuple):
    """Mean TTFT in seconds, the share of prompt tokens found, and of bytes brought up in vain."""

    ttft_s: float
    found: float
    wasted: float | None


Stores = Mapping[float, Mapping[str, Raised]]
"""By the store's bandwidth in GB/s: what comes of each way to use it."""

Splits = Mapping[tuple[float, bool], Mapping[int, Split]]
"""By the trace's speed and whether there are caches: each number of prefill nodes."""


def scheduled(path: str, simulate: Simulate) -> dict[str, Scheduled]:
    """Return what the schedulers make of a trace.

    Raises:
        ConfigError: its prompts have no ids of blocks.
    """
    return {name: _scheduled(path, own, simulate) for name, own in SCHEDULERS.items()}


def _scheduled(path: str, own: Sequence[str], simulate: Simulate) -> Scheduled:
    summary = simulate([*EXPERIMENT, f"workload.path={path}", *own]).summary
    if not summary["prefix_cache"]:
        raise ConfigError(f"{path}: its prompts have no ids of blocks")
    return Scheduled(summary["ttft_s"]["mean"], summary["prefix_cache"]["hit_share"])


def splits(path: str, simulate: Simulate) -> Splits:
    """Return what every split makes of a trace, with caches and without, at each speed."""
    return {
        (rate, caches): {count: _split(path, rate, caches, count, simulate) for count in SPLITS}
        for rate in RATES
        for caches in (True, False)
    }


def _split(path: str, rate: float, caches: bool, prefill: int, simulate: Simulate) -> Split:
    told = str(caches).lower()
    summary = simulate(
        [
            *(*EXPERIMENT, f"workload.path={path}", f"workload.replay.rate_scale={rate:g}"),
            f"pools.prefill.workers={prefill}",
            f"pools.decode.workers={NODES - prefill}",
            *(f"pools.{pool}.batching.prefix_cache={told}" for pool in ("prefill", "decode")),
        ]
    ).summary
    return Split(summary["slo_attainment"], summary["ttft_s"]["mean"])


def stores(path: str, simulate: Simulate) -> Stores:
    """Return what every way to use a store makes of a trace, at each bandwidth."""
    bare = _raised(path, RAISING["nothing beneath"], simulate)
    return {
        speed: {
            name: _raised(path, _over(own, speed), simulate) if "none" not in own[0] else bare
            for name, own in RAISING.items()
        }
        for speed in STORES_GB_PER_S
    }


def _over(own: Sequence[str], speed: float) -> list[str]:
    sizes = f"cache_tiers.host.gib={HOST_GIB:g}", f"cache_tiers.store.gb_per_s={speed:g}"
    return [*own, *sizes]


def _raised(path: str, own: Sequence[str], simulate: Simulate) -> Raised:
    trace = f"workload.path={path}"
    summary = simulate([*EXPERIMENT, trace, "router=least_tokens", *own]).summary
    tiers = summary["cache_tiers"].values()
    moved = sum(tier["prefetched_bytes"] for tier in tiers)
    wasted = sum(tier["prefetch_wasted_bytes"] for tier in tiers) / moved if moved else None
    return Raised(summary["ttft_s"]["mean"], summary["prefix_cache"]["hit_share"], wasted)


def fewest(found: Mapping[int, Split]) -> int | None:
    """Return the fewest prefill nodes with enough requests in time, if any number has."""
    return next((count for count, split in found.items() if split.in_time >= ENOUGH), None)


INTRODUCTION = """# What prefix caches change

Generated by `scripts/cache_study TRACE... --write`; do not edit. Sixteen nodes of eight A100s serve
Llama-3.1-70B (`experiment=policies/sixteen_nodes`), on traces whose prompts share blocks, with 30 s
to the first token and 100 ms between tokens, as Mooncake's did (FAST '25).

## Four schedulers

Published, for Mooncake's conversation trace on such nodes: mean TTFT falls from 19.65 s, at random,
to about 3 s, in this order. Half of the nodes here compute prompts; what share of prompt tokens a
cache or the store had is beside it.

```sh
disaggsim experiment=policies/sixteen_nodes workload=trace workload.path=TRACE router=random
```
"""

SPLIT_WORDS = """
## How many nodes for prompts

The same nodes, the router by load and each worker's own cache, over every split of prefill to
decode nodes. Cells are the share of requests within both targets, and mean TTFT; the last column is
the first split with enough of them in time, which is what a study would choose that knows of
caches, or does not.
"""


STORE_WORDS = f"""
## A slow store, and prefetching from it

The nodes of the first table and the router by load, with {HOST_GIB:g} GiB of host memory in each
domain and a store for all, of so many GB/s that all share. What the store has of a prompt is
loaded when the prompt is begun (`cache_tiers=host_store`), or brought up to host memory as it
queues (`cache_tiers=hicache`), by each of HiCache's policies. Cells are mean TTFT, the share of
prompt tokens found, and of the bytes brought up those that spared nobody anything; the last column
is the way with the least mean TTFT. What waits to be loaded keeps its place and its blocks, and
others are computed meanwhile: where the store is fast enough, there is little left to hide, and
what is brought up crosses two links instead of one.

```sh
disaggsim experiment=policies/sixteen_nodes workload=trace workload.path=TRACE \\
  router=least_tokens cache_tiers=hicache cache_tiers.host.gib={HOST_GIB:g} \\
  cache_tiers.store.gb_per_s=5
```
"""


def page(found: Mapping[str, tuple[Mapping[str, Scheduled], Splits, Stores]]) -> str:
    """Return the documentation's page of all traces, by their names."""
    lines = [INTRODUCTION, f"| trace | {' | '.join(SCHEDULERS)} | order as published |"]
    lines.append("|---" * (len(SCHEDULERS) + 2) + "|")
    lines += [_schedulers(name, one) for name, (one, _, _) in found.items()]
    lines.append(SPLIT_WORDS)
    head = " | ".join(f"{count} : {NODES - count}" for count in SPLITS)
    lines.append(f"| trace | caches | {head} | {ENOUGH:.0%} in time from |")
    lines.append("|---" * (len(SPLITS) + 3) + "|")
    for name, (_, other, _) in found.items():
        lines += _splits(name, other)
    lines.append(STORE_WORDS)
    lines.append(f"| trace | store | {' | '.join(RAISING)} | least mean TTFT |")
    lines.append("|---" * (len(RAISING) + 3) + "|")
    for name, (_, _, last) in found.items():
        lines += _stores(name, last)
    return "\n".join(lines) + "\n"


def _schedulers(name: str, found: Mapping[str, Scheduled]) -> str:
    cells = " | ".join(f"{each.ttft_s:.2f} s, {each.found:.0%}" for each in found.values())
    falls = all(one.ttft_s > other.ttft_s for one, other in pairwise(found.values()))
    return f"| {name} | {cells} | {'yes' if falls else '**no**'} |"


def _splits(name: str, found: Splits) -> Iterator[str]:
    for (rate, caches), row in found.items():
        cells = " | ".join(f"{each.in_time:.0%}, {each.ttft_s:.1f} s" for each in row.values())
        least = fewest(row)
        speed = name if rate == 1 else f"{name}, {rate:g} times as fast"
        told = "none" if least is None else f"{least} : {NODES - least}"
        yield f"| {speed} | {'on' if caches else 'off'} | {cells} | {told} |"


def _stores(name: str, found: Stores) -> Iterator[str]:
    for speed, row in found.items():
        cells = " | ".join(map(_brought, row.values()))
        least = min(row, key=lambda way: row[way].ttft_s)
        yield f"| {name} | {speed:g} GB/s | {cells} | {least} |"


def _brought(each: Raised) -> str:
    wasted = "" if each.wasted is None else f", {each.wasted:.0%} in vain"
    return f"{each.ttft_s:.2f} s, {each.found:.0%}{wasted}"


def named(path: str) -> str:
    """Return what a trace is called on the page."""
    return Path(path).name
