"""What KV hand-over asks of the fabric, and whether the fabric carries it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from simulator.explore.space import Lengths, Platform
from simulator.layout import Layout
from simulator.wire import End, Wire, wire

DEGREES = ("tp", "pp", "attention_dp")
LAYOUTS = tuple(f"{pool}_{degree}" for pool in ("prefill", "decode") for degree in DEGREES)
KINDS = ("scale_up", "scale_out")

Platforms = tuple[Platform, Platform]
"""Prefill's and decode's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What a client's first token waits for beside its prompt.

    ``mode`` and ``setup_s`` are those of a deployment's transfer, ``first_token`` where a client
    sees it: at the end of ``prefill``, or when the ``decode`` worker has taken the request over.
    ``gateway_s``, ``handover_s`` and ``recomputes`` are those of the deployment too; only the first
    counts for co-located workers.
    """

    mode: str = "push_layerwise"
    setup_s: float = 0.0
    first_token: str = "prefill"  # noqa: S105 - a place, not a secret
    gateway_s: float = 0.0
    handover_s: float = 0.0
    recomputes: bool = False

    def seconds(self, platforms: Platforms, tokens: float) -> pl.Expr | float:
        """Return the seconds after the end of prompts of so many tokens, of a frame's deployments.

        The hand-over, the time on the wire of what is left when the prompt ends (layer-wise, its
        last layer, and while the hand-over lasts), the path's latency and set-up, and the decode
        step that is under way; one more step where that recomputes the token.
        """
        if self.first_token == "prefill":  # noqa: S105
            return 0.0
        model = platforms[0].model
        left = tokens * model.kv_bytes_per_token(platforms[0].precision.kv_bytes)
        if self.mode == "push_layerwise":
            left /= model.layers
        ends = (pl.col(f"{pool}_kv_gpus") / pl.col(f"{pool}_attention_dp") for pool in _POOLS)
        wire = left / (_port(platforms) * pl.min_horizontal(*ends))
        trips = 2 if self.mode == "pull" else 1
        path = wire + trips * _latency_s(platforms) + self.setup_s
        whole = path + self.handover_s
        if self.mode == "push_layerwise":
            whole = pl.max_horizontal(path, pl.lit(self.handover_s))
        return whole + (2 if self.recomputes else 1) * pl.col("tpot_s")


_POOLS = ("prefill", "decode")


def with_bandwidth(
    deployments: pl.DataFrame, platforms: Platforms, lengths: Lengths
) -> pl.DataFrame:
    """Return disaggregated deployments with the KV bandwidth they need, in bytes/s per GPU.

    Per worker, requests/s × the mean bytes a request holds (:class:`simulator.wire.Wire`), over the
    GPUs that hold distinct shards (arXiv 2506.05508, KV transfer): ``kv_egress`` of prefill that
    is never idle, ``kv_ingress`` of decode with its batch over TPOT × OSL.
    ``kv_covered`` tells whether a worker's ports carry that in steady state, on either side:
    all that crosses the wire, copies included, at what ports reach and messages cost there; inside
    a domain where the whole deployment fits into one, else over the network.
    """
    if not len(deployments):
        return deployments.with_columns(
            pl.lit(None, pl.Float64).alias("kv_egress"),
            pl.lit(None, pl.Float64).alias("kv_ingress"),
            pl.lit(None, pl.Boolean).alias("kv_covered"),
        )
    pairs = deployments.select(LAYOUTS).unique(maintain_order=True)
    ways = pl.DataFrame([*_ways(pairs, platforms, lengths)])
    known = deployments.join(ways, on=LAYOUTS, how="left", maintain_order="left")
    kind = pl.when(pl.col("gpus") <= _shared_domain(platforms))
    egress = pl.col("prefill_batch") / pl.col("ttft_s")
    if "prefill_rate" in deployments.columns:  # prompts may be packed, and TTFT have their wait
        egress = pl.col("prefill_rate")
    ingress = pl.col("decode_batch") / (pl.col("tpot_s") * lengths.mean_osl)
    needed = known.with_columns(
        (egress * pl.col("payload") / pl.col("prefill_kv_gpus")).alias("kv_egress"),
        (ingress * pl.col("payload") / pl.col("decode_kv_gpus")).alias("kv_ingress"),
        (
            (egress <= kind.then("prefill_scale_up").otherwise("prefill_scale_out"))
            & (ingress <= kind.then("decode_scale_up").otherwise("decode_scale_out"))
        ).alias("kv_covered"),
    )
    return needed.drop([name for name in ways.columns if name not in LAYOUTS])


def carried(deployments: pl.DataFrame) -> pl.DataFrame:
    """Return the deployments of :func:`with_bandwidth` whose KV the fabric carries."""
    return deployments.filter("kv_covered")


def _ways(
    pairs: pl.DataFrame, platforms: tuple[Platform, Platform], lengths: Lengths
) -> Iterator[dict[str, Any]]:
    """Yield, per pair of layouts, a request's mean bytes and the requests/s a worker's ports carry.

    Bytes depend on a request's prompt alone, so they are summed once for all layouts.
    """
    prompts = Counter(lengths.isl)
    mean: dict[str, float] = {}
    for row in pairs.iter_rows(named=True):
        source, target = _end(row, "prefill", platforms[0]), _end(row, "decode", platforms[1])
        between = wire(platforms[0].model, source, target, platforms[0].transfer)
        mean = mean or _mean(between, prompts)
        crossing = between.crossing(mean["tokens"], mean["in_window"])
        carried = {
            f"{pool}_{kind}": _width(between, pool, kind, platform)
            * row[f"{pool}_attention_dp"]
            / crossing
            for pool, platform in zip(("prefill", "decode"), platforms, strict=True)
            for kind in KINDS
        }
        yield {**row, "payload": mean["payload"], **carried}


def _mean(between: Wire, prompts: Counter[int]) -> dict[str, float]:
    """Return means over requests: tokens in whole blocks, those in the window, and bytes held."""
    window, requests = between.held.window, prompts.total()
    whole = [(between.whole(tokens), count) for tokens, count in prompts.items()]
    return {
        "tokens": sum(tokens * count for tokens, count in whole) / requests,
        "in_window": sum(min(tokens, window) * count for tokens, count in whole) / requests,
        "payload": sum(between.held.bytes(tokens) * count for tokens, count in whole) / requests,
    }


def _end(row: dict[str, Any], pool: str, platform: Platform) -> End:
    layout = Layout(**{degree: row[f"{pool}_{degree}"] for degree in DEGREES})
    return End(layout=layout, precision=platform.precision, block_size=platform.block_size)


def _width(between: Wire, pool: str, kind: str, platform: Platform) -> float:
    """Return the bytes/s that one attention rank's ports carry."""
    sends = pool == "prefill"
    gpus = between.senders if sends else between.receivers
    reached = gpus * platform.fabric.reach(platform.gpu, kind)
    if sends == between.pulled:
        return reached
    return min(reached, between.posted(platform.fabric.message_cost(kind)))


def _port(platforms: Platforms) -> pl.Expr:
    """Return the bytes/s that one GPU's port reaches, of the narrower of a deployment's kinds."""
    near, far = (
        min(platform.fabric.reach(platform.gpu, kind) for platform in platforms) for kind in KINDS
    )
    return pl.when(pl.col("gpus") <= _shared_domain(platforms)).then(near).otherwise(far)


def _latency_s(platforms: Platforms) -> float:
    """Return the seconds a transfer over the network takes beside its time on the wire."""
    fabric = platforms[0].fabric
    ends = (fabric.nic(platform.gpu).latency_s for platform in platforms)
    return sum(ends) + fabric.network.latency_s + fabric.setup_s


def _shared_domain(platforms: tuple[Platform, Platform]) -> int:
    """Return the GPUs of a scale-up domain that can hold both pools, 0 if none can."""
    prefill, decode = platforms
    alike = (prefill.gpu, prefill.fabric) == (decode.gpu, decode.fabric)
    return prefill.fabric.domain_size(prefill.gpu) if alike else 0
