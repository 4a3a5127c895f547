"""What KV hand-over asks of the fabric, per GPU that holds a distinct shard."""

import polars as pl

from simulator.explore.space import Lengths, Platform


def kv_bytes_per_token(platform: Platform) -> float:
    """Return the bytes one token's KV weighs in a transfer, each distinct shard once."""
    model = platform.model
    return model.kv_bytes_per_token(platform.precision.kv_bytes) + model.index_bytes_per_token


def with_bandwidth(
    deployments: pl.DataFrame, platforms: tuple[Platform, Platform], lengths: Lengths
) -> pl.DataFrame:
    """Return disaggregated deployments with the KV bandwidth they need, in bytes/s per GPU.

    Per worker, requests/s × ISL × bytes per token, over the GPUs that hold distinct shards
    (arXiv 2506.05508, KV transfer): ``kv_egress`` of prefill with its prompts in flight over one
    TTFT, ``kv_ingress`` of decode with its batch over TPOT × OSL. ``kv_covered`` tells whether
    the narrower of the two GPUs' ports carries both: network ports, or scale-up ports of
    deployments that fit into one domain. A worker's ports serve one transfer after the other
    (``transfer.sharing=fifo``), each as wide as the smaller of its two ends.
    """
    ports = [platform.fabric.nic(platform.gpu).bandwidth for platform in platforms]
    network = min(*ports, *(platform.fabric.network.bandwidth for platform in platforms))
    inside = pl.col("gpus") <= _shared_domain(platforms)
    port = pl.when(inside).then(_scale_up(platforms[0])).otherwise(network)
    request = lengths.mean_isl * kv_bytes_per_token(platforms[0])
    egress = pl.col("prefill_batch") * request / pl.col("ttft_s") / pl.col("prefill_kv_gpus")
    ingress = (
        pl.col("decode_batch")
        * request
        / (pl.col("tpot_s") * lengths.mean_osl)
        / pl.col("decode_kv_gpus")
    )
    needed = deployments.with_columns(egress.alias("kv_egress"), ingress.alias("kv_ingress"))
    ends = pl.col("prefill_kv_gpus"), pl.col("decode_kv_gpus")
    one_transfer = port * pl.min_horizontal(*ends)
    most = pl.max_horizontal(pl.col("kv_egress") * ends[0], pl.col("kv_ingress") * ends[1])
    return needed.with_columns((most <= one_transfer).alias("kv_covered"))


def carried(deployments: pl.DataFrame) -> pl.DataFrame:
    """Return the deployments of :func:`with_bandwidth` whose KV the fabric carries."""
    return deployments.filter("kv_covered")


def _shared_domain(platforms: tuple[Platform, Platform]) -> int:
    """Return the GPUs of a scale-up domain that can hold both pools, 0 if none can."""
    prefill, decode = platforms
    alike = (prefill.gpu, prefill.fabric) == (decode.gpu, decode.fabric)
    return prefill.fabric.domain_size(prefill.gpu) if alike else 0


def _scale_up(platform: Platform) -> float:
    """Return the bytes/s of one GPU's port inside a domain."""
    bridge = platform.fabric.host_bridge
    link = platform.gpu.scale_up.bandwidth
    return link if bridge is None else min(link, bridge.bandwidth)
