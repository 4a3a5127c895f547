"""A chosen deployment as something to run elsewhere: settings of a simulation, or a CSV row."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
import yaml

from simulator.explore.space import TRANSFER_MODE, Lengths, Platform
from simulator.latency.speculative import Speculative

Row = Mapping[str, Any]
Settings = Mapping[str, Any]
Platforms = tuple[Platform, Platform]
"""Prefill's and decode's."""

SHORT = 8
"""So many times the mean number of prompts may be in a step: short ones come together."""
LOAD = 0.9
"""Share of the promised rate that an exported simulation offers: queues need some room."""


def experiment(row: Row, platforms: Platforms, lengths: Lengths) -> dict[str, Any]:
    """Return the settings of the simulation a deployment stands for, as an experiment has them.

    Poisson arrivals at 90 % of the rate it promises, of constant lengths, the means. A co-located
    worker that stalls for several prompts at a time does not gather them there, but takes those
    that wait: below saturation it stalls more often, and its TPOT is higher than promised.
    """
    return {
        "latency": {"speculative": _speculative(row, platforms[1])},
        "pools": _pools(row, platforms, lengths),
        "workload": {
            "arrivals": {
                "_target_": "workloads.arrivals.Poisson",
                "rate": float(f"{LOAD * row['rate']:.4g}"),
            },
            "input_lengths": _tokens(lengths.mean_isl),
            "output_lengths": _tokens(lengths.mean_osl),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an exported experiment runs in: the ``groups`` chosen (model, hardware, fabric, …).

    ``changes`` are the settings that were changed in them, and ``gpus`` those of a pool's own GPU,
    by role.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    gpus: Mapping[str, Any] = field(default_factory=dict)


def experiment_text(
    row: Row, platforms: Platforms, lengths: Lengths, surroundings: Surroundings
) -> str:
    """Return an experiment file: choose it with ``--config-dir DIR experiment=NAME``."""
    cluster = "disaggregated" if row["kind"] == "disaggregated" else "colocated"
    chosen = {"cluster": cluster, "transfer": TRANSFER_MODE, "workload": "constant"}
    settings = merged(surroundings.changes, experiment(row, platforms, lengths))
    for role, pool in settings["pools"].items():
        gpu = surroundings.gpus.get("decode" if role == "mixed" else role)
        settings["pools"][role] = pool if gpu is None else {**pool, "gpu": gpu}
    overridden = {**surroundings.groups, **chosen}
    defaults = [{f"override /{group}": choice} for group, choice in overridden.items()]
    body = {"defaults": defaults, **settings}
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
    """Return the same as a list of overrides for the command line."""
    pools = "disaggregated" if row["kind"] == "disaggregated" else "colocated"
    settings = experiment(row, platforms, lengths)
    rest = [f"{key}={value}" for key, value in _flat(settings)]
    return [f"cluster={pools}", f"transfer={TRANSFER_MODE}", "workload=constant", *rest]


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
    if rides:
        tokens = batch + row["mixed_chunk"] * groups
    else:
        tokens = max(batch, row["mixed_prompts"] * round(lengths.mean_isl) * groups)
    return {
        "max_num_batched_tokens": tokens,
        "max_num_seqs": batch,
        "reserve": "full",
        "chunked_prefill": rides,
        "piggyback": rides,
    }


def _tokens(mean: float) -> dict[str, int]:
    return {"tokens": round(mean)}


def _flat(settings: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value).lower() if isinstance(value, bool) else value
