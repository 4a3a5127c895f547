"""A chosen deployment as something to run elsewhere: settings of a simulation, or a CSV row."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
import yaml

from simulator.explore.space import Lengths, Platform
from simulator.latency.speculative import Speculative

Row = Mapping[str, Any]
Settings = Mapping[str, Any]
Platforms = tuple[Platform, Platform]
"""Prefill's and decode's."""

SHORT = 8
"""So many times the mean number of prompts may be in a step: short ones come together."""
LIVES, LEAST, MOST = 8, 2_000, 20_000
"""Requests to simulate: so many times those in flight, between these bounds. Fewer would end before
queues have grown."""


def experiment(row: Row, platforms: Platforms, lengths: Lengths) -> dict[str, Any]:
    """Return the settings of the pools a deployment stands for, as an experiment has them."""
    return {
        "latency": {"speculative": _speculative(row, platforms[1])},
        "pools": _pools(row, platforms, lengths),
    }


def requests(row: Row, lengths: Lengths) -> int:
    """Return the requests to offer a deployment: several lives of all it has in flight."""
    in_flight = row["rate"] * (row["ttft_s"] + row["tpot_s"] * lengths.mean_osl)
    return int(min(max(LIVES * in_flight, LEAST), MOST))


def poisson(rate: float, lengths: Lengths, count: int) -> dict[str, Any]:
    """Return a workload of ``count`` requests of these lengths, ``rate`` a second at random."""
    alike = len(lengths.isl) == 1
    constant = {"_target_": "workloads.lengths.Constant"}
    pairs = {"inputs": list(lengths.isl), "outputs": list(lengths.osl)}
    return {
        "_target_": "workloads.workload.SyntheticWorkload",
        "name": "poisson",
        "requests": count,
        "duration_s": None,
        "concurrency": None,
        "correlation": 0.0,
        "pairs": None if alike else {"_target_": "workloads.lengths.EmpiricalPairs", **pairs},
        "arrivals": {"_target_": "workloads.arrivals.Poisson", "rate": _digits(rate)},
        "input_lengths": {**constant, "tokens": lengths.isl[0]} if alike else None,
        "output_lengths": {**constant, "tokens": lengths.osl[0]} if alike else None,
    }


def own(workload: Settings, rate: float, count: int, max_context: int) -> dict[str, Any] | None:
    """Return a user's workload with its own arrivals, at ``rate`` requests/s on average.

    A trace's clock runs faster or slower, and requests beyond ``max_context`` tokens are left out,
    as exploring left them out; of a synthetic workload there are ``count`` requests. ``None`` where
    a workload has no arrivals that could be scaled.
    """
    if workload.get("concurrency") is not None:
        return None
    if "replay" in workload:
        limit = min(workload["max_context"] or max_context, max_context)
        replay = {**workload["replay"], "rate_scale": 1.0, "target_rate": _digits(rate)}
        replay["max_requests"] = min(replay["max_requests"] or MOST, MOST)
        return {**workload, "max_context": limit, "over_context": "drop", "replay": replay}
    if "rate" not in (workload.get("arrivals") or {}):
        return None
    arrivals = {**workload["arrivals"], "rate": _digits(rate)}
    return {**workload, "arrivals": arrivals, "requests": count, "duration_s": None}


def _digits(rate: float) -> float:
    return float(f"{rate:.6g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an exported experiment runs in: the ``groups`` chosen (model, hardware, fabric, …).

    ``changes`` are the settings that were changed in them, and ``gpus`` those of a pool's own GPU,
    by role. ``workload`` are the whole settings of the workload whose lengths were explored, and
    ``workload_group`` what they were chosen as; ``None`` where lengths were given.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    gpus: Mapping[str, Any] = field(default_factory=dict)
    workload: Mapping[str, Any] | None = None
    workload_group: str = "constant"

    def offered(self, row: Row, platforms: Platforms, lengths: Lengths) -> tuple[str, Settings]:
        """Return the workload to offer a deployment at the rate it promises, and its group.

        The workload itself at that rate, or Poisson arrivals of the lengths explored.
        """
        count, rate = row.get("run_requests", requests(row, lengths)), row["rate"]
        if self.workload is not None:
            itself = own(self.workload, rate, count, platforms[1].model.max_context)
            if itself is not None:
                return self.workload_group, itself
        return "constant", poisson(rate, lengths, count)


def experiment_text(
    row: Row, platforms: Platforms, lengths: Lengths, surroundings: Surroundings
) -> str:
    """Return an experiment file: choose it with ``--config-dir DIR experiment=NAME``."""
    cluster = "disaggregated" if row["kind"] == "disaggregated" else "colocated"
    group, workload = surroundings.offered(row, platforms, lengths)
    settings = merged(surroundings.changes, experiment(row, platforms, lengths))
    for role, pool in settings["pools"].items():
        gpu = surroundings.gpus.get("decode" if role == "mixed" else role)
        settings["pools"][role] = pool if gpu is None else {**pool, "gpu": gpu}
    overridden = {**surroundings.groups, "cluster": cluster, "workload": group}
    defaults = [{f"override /{group}": choice} for group, choice in overridden.items()]
    body = {"defaults": defaults, **settings, "workload": workload}
    return f"# @package _global_\n{yaml.safe_dump(body, sort_keys=False)}"


def merged(settings: Settings, changes: Settings) -> dict[str, Any]:
    """Return ``settings`` with ``changes`` in their places, group by group."""
    whole = dict(settings)
    for name, value in changes.items():
        below = whole.get(name)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        whole[name] = merged(below, value) if both else value  # type: ignore[arg-type]
    return whole


def beyond(base: Settings, whole: Settings) -> dict[str, Any]:
    """Return the settings of ``whole`` that ``base`` has not, or has otherwise."""
    more: dict[str, Any] = {}
    for name, value in whole.items():
        below = base.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            inner = beyond(below, value)
            more |= {name: inner} if inner else {}
        elif name not in base or value != below:
            more[name] = value
    return more


def overrides(row: Row, platforms: Platforms, lengths: Lengths) -> list[str]:
    """Return the same as a list of overrides for the command line, under Poisson arrivals."""
    pools = "disaggregated" if row["kind"] == "disaggregated" else "colocated"
    settings = experiment(row, platforms, lengths)
    settings["workload"] = poisson(row["rate"], lengths, requests(row, lengths))
    rest = [f"{key}={'null' if value is None else value}" for key, value in _flat(settings)]
    return [f"cluster={pools}", "workload=constant", *rest]


def aiconfigurator(deployments: pl.DataFrame, lengths: Lengths) -> pl.DataFrame:
    """Return disaggregated deployments under the column names of AIConfigurator's tables.

    Times are in milliseconds, as there.
    """
    if "prefill_workers" not in deployments.columns:
        return pl.DataFrame()
    tokens = pl.col("rate") * lengths.mean_osl
    return deployments.filter(kind="disaggregated").select(
        pl.lit(lengths.mean_isl).alias("isl"),
        pl.lit(lengths.mean_osl).alias("osl"),
        (pl.col("decode_workers") * pl.col("decode_batch")).alias("concurrency"),
        (pl.col("ttft_s") * 1e3).alias("ttft"),
        (pl.col("tpot_s") * 1e3).alias("tpot"),
        pl.col("rate").alias("seq/s"),
        (pl.col("rate") / pl.col("gpus")).alias("seq/s/gpu"),
        tokens.alias("tokens/s"),
        pl.col("throughput").alias("tokens/s/gpu"),
        pl.col("interactivity").alias("tokens/s/user"),
        pl.col("gpus").alias("num_total_gpus"),
        *_worker_columns("(p)", "prefill"),
        *_worker_columns("(d)", "decode"),
    )


def _worker_columns(mark: str, pool: str) -> Iterator[pl.Expr]:
    ranks = pl.col(f"{pool}_tp") * pl.col(f"{pool}_attention_dp")
    yield pl.col(f"{pool}_workers").alias(f"{mark}workers")
    yield (pl.col(f"{pool}_batch") // pl.col(f"{pool}_attention_dp")).alias(f"{mark}bs")
    yield pl.col(f"{pool}_batch").alias(f"{mark}global_bs")
    yield pl.col(f"{pool}_tp").alias(f"{mark}tp")
    yield pl.col(f"{pool}_pp").alias(f"{mark}pp")
    yield pl.col(f"{pool}_attention_dp").alias(f"{mark}dp")
    yield (ranks // pl.col(f"{pool}_ep")).alias(f"{mark}moe_tp")
    yield pl.col(f"{pool}_ep").alias(f"{mark}moe_ep")


def _pools(row: Row, platforms: Platforms, lengths: Lengths) -> dict[str, Any]:
    if row["kind"] != "disaggregated":
        return {
            "mixed": _pool(row, "mixed", platforms[1], _mixed_batching(row, lengths))
            | {"workers": row["mixed_workers"]}
        }
    batchings = {
        "prefill": {
            "max_num_batched_tokens": _prefill_tokens(row, lengths),
            "max_num_seqs": row["prefill_batch"] * (SHORT if lengths.varied else 1),
        },
        "decode": {
            "max_num_batched_tokens": row["decode_batch"],
            "max_num_seqs": row["decode_batch"],
            "reserve": "full",
        },
    }
    return {
        pool: {"workers": row[f"{pool}_workers"]} | _pool(row, pool, platform, batching)
        for platform, (pool, batching) in zip(platforms, batchings.items(), strict=True)
    }


def _speculative(row: Row, platform: Platform) -> dict[str, Any]:
    """Return the drafts of a deployment's decode steps, with the acceptance they were costed at."""
    pool = "decode" if row["kind"] == "disaggregated" else "mixed"
    given = platform.latency.speculative or Speculative()
    accepted = given.acceptance
    return {
        "draft_tokens": row[f"{pool}_draft_tokens"],
        "acceptance": list(accepted) if isinstance(accepted, tuple) else accepted,
        "draft_layers": given.draft_layers,
    }


def _pool(row: Row, pool: str, platform: Platform, batching: dict[str, Any]) -> dict[str, Any]:
    layout = {name: row[f"{pool}_{name}"] for name in ("tp", "pp", "ep", "attention_dp")}
    stored = {k: v for k, v in asdict(platform.precision).items() if v is not None}
    room = {
        "memory_utilization": platform.memory_utilization,
        "block_size": platform.block_size,
    }
    return {
        "layout": {**layout, "chunked_pipeline": layout["pp"] > 1},
        "precision": stored,
        "batching": {**batching, **room},
    }


def _prefill_tokens(row: Row, lengths: Lengths) -> int:
    """Return the tokens of a prefill worker's step, over its attention ranks."""
    ranks = row["prefill_attention_dp"]
    if row["prefill_chunk"]:
        return int(row["prefill_chunk"] * ranks)
    prompts: int = row["prefill_batch"] // row["prefill_pp"]
    return round(prompts * lengths.mean_isl)


def _mixed_batching(row: Row, lengths: Lengths) -> dict[str, Any]:
    groups = row["mixed_attention_dp"] * row["mixed_pp"]
    batch, rides = row["mixed_batch"], row["mixed_prompts"] == 0
    seats = batch + (_riding(row, lengths, groups) if rides else 0)
    if rides:
        tokens = batch + row["mixed_chunk"] * groups
    else:
        tokens = max(batch, row["mixed_prompts"] * round(lengths.mean_isl) * groups)
    return {
        "max_num_batched_tokens": tokens,
        "max_num_seqs": seats,
        "reserve": "full",
        "chunked_prefill": rides,
        "piggyback": rides,
    }


def _riding(row: Row, lengths: Lengths, groups: int) -> int:
    """Return the prompts under way beside a full batch: each has a seat of its own."""
    chunk, isl = row["mixed_chunk"], lengths.mean_isl
    pieces = lengths.pieces(chunk).mean if lengths.varied else isl / chunk
    under_way = float(row["mixed_batch"]) * pieces / lengths.steps
    return max(1, round(min(under_way, groups)))


def _flat(settings: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value).lower() if isinstance(value, bool) else value
