"""What prefix caches change: each run composes, and the page says what was found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from simulator.cli import compose
from simulator.errors import ConfigError
from simulator.validation import caches

ROW = '{"timestamp": 0, "input_length": 600, "output_length": 4, "hash_ids": [7, 9]}\n'


class Told:
    """Results of which the summary alone is read."""

    def __init__(self, share: float, seconds: float, found: float) -> None:
        self.summary: dict[str, Any] = {
            "slo_attainment": share,
            "ttft_s": {"mean": seconds},
            "prefix_cache": {"hit_share": found},
            "cache_tiers": {
                "host": {"prefetched_bytes": 0.0, "prefetch_wasted_bytes": 0.0},
                "store": {"prefetched_bytes": 80.0, "prefetch_wasted_bytes": 20.0},
            },
        }


def test_every_run_composes(tmp_path: Path) -> None:
    """Four schedulers, seven splits of sixteen nodes, twice as fast too, with and without caches.

    And a store of five speeds, used in four ways, beside none.
    """
    trace = tmp_path / "trace.jsonl"
    trace.write_text(ROW, "utf-8")
    seen = []

    def simulate(overrides: Sequence[str]) -> Any:
        pools = compose(list(overrides)).deployment.pools
        assert sum(pool.workers for pool in pools) == caches.NODES
        seen.append(tuple(overrides))
        return Told(0.5, 1.0, 0.25)

    assert list(caches.scheduled(str(trace), simulate)) == list(caches.SCHEDULERS)
    found = caches.splits(str(trace), simulate)
    assert len(set(seen)) == 4 + 7 * 2 * 2
    assert {tuple(row) for row in found.values()} == {caches.SPLITS}
    told = caches.stores(str(trace), simulate)
    assert len(set(seen)) == 4 + 7 * 2 * 2 + 5 * 4 + 1
    assert {tuple(row) for row in told.values()} == {tuple(caches.RAISING)}
    assert told[5.0]["timeout"] == caches.Raised(1.0, 0.25, 0.25)


def test_the_page_says_whether_the_order_is_the_published_one() -> None:
    """Each scheduler is to be faster than the one before it."""
    falling = dict(zip(caches.SCHEDULERS, (9.0, 4.0, 3.0, 2.5), strict=True))
    rising = {**falling, next(reversed(caches.SCHEDULERS)): 3.5}
    splits = {(1.0, True): {2: caches.Split(0.5, 9.0), 4: caches.Split(0.95, 1.0)}}
    ways = zip(caches.RAISING, (9.0, 8.0, 1.5, 3.0, 2.0), strict=True)
    stores = {5.0: {way: caches.Raised(s, 0.5, 0.25 if s < 5 else None) for way, s in ways}}
    page = caches.page(
        {
            name: ({at: caches.Scheduled(s, 0.1) for at, s in seconds.items()}, splits, stores)
            for name, seconds in (("one.jsonl", falling), ("two.jsonl", rising))
        }
    )
    assert "| one.jsonl | 9.00 s, 10% | 4.00 s, 10% | 3.00 s, 10% | 2.50 s, 10% | yes |" in page
    assert "3.50 s, 10% | **no** |" in page
    assert "| one.jsonl | 5 GB/s | 9.00 s, 50% | 8.00 s, 50% | 1.50 s, 50%, 25% in vain |" in page
    assert "2.00 s, 50%, 25% in vain | best_effort |" in page
    assert "| one.jsonl | on | 50%, 9.0 s | 95%, 1.0 s | 4 : 12 |" in page


@pytest.mark.parametrize(("shares", "least"), [((0.5, 0.9), 4), ((0.5, 0.8), None), ((1, 1), 2)])
def test_the_fewest_prefill_nodes_that_do(shares: tuple[float, float], least: int | None) -> None:
    """The first with nine of ten in time, or none."""
    found = dict(zip((2, 4), (caches.Split(share, 1.0) for share in shares), strict=True))
    assert caches.fewest(found) == least


def test_a_trace_without_ids_is_refused() -> None:
    """There is nothing to find of its prompts."""

    def simulate(_: Sequence[str]) -> Any:
        told = Told(0.5, 1.0, 0.25)
        told.summary["prefix_cache"] = {}
        return told

    with pytest.raises(ConfigError, match=r"plain\.csv: its prompts have no ids of blocks"):
        caches.scheduled("plain.csv", simulate)
