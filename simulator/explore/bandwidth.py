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
    the narrower of the two GPUs' network ports carries both.
    """
    ports = [platform.fabric.nic(platform.gpu).bandwidth for platform in platforms]
    port = min(*ports, *(platform.fabric.network.bandwidth for platform in platforms))
    request = lengths.mean_isl * kv_bytes_per_token(platforms[0])
    egress = pl.col("prefill_batch") * request / pl.col("ttft_s") / pl.col("prefill_kv_gpus")
    ingress = (
        pl.col("decode_batch")
        * request
        / (pl.col("tpot_s") * lengths.mean_osl)
        / pl.col("decode_kv_gpus")
    )
    needed = deployments.with_columns(egress.alias("kv_egress"), ingress.alias("kv_ingress"))
    return needed.with_columns(
        (pl.max_horizontal("kv_egress", "kv_ingress") <= port).alias("kv_covered")
    )
