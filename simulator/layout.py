"""How one worker spreads a model over its GPUs, and what memory that leaves for KV."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The dtypes a worker computes and stores in: ``bf16``, ``fp8``, ``fp8_block``, ``nvfp4``, …"""

    weights: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One worker's parallelism; ``gpus`` = ``tp`` × ``attention_dp`` × ``pp``.

    ``tp`` shards attention heads, ``attention_dp`` replicates attention over disjoint requests,
    ``pp`` cuts the layers into stages. Experts are sharded over ``ep`` ranks of the
    ``tp`` × ``attention_dp`` group (the rest of that group shards each expert's FFN).
    TEP is ``tp = ep = G``; DEP is ``attention_dp = ep = G``.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1
    chunked_pipeline: bool = False

    @property
    def gpus(self) -> int:
        """GPUs one worker of this layout occupies."""
        return self.tp * self.attention_dp * self.pp


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one worker's GPUs hold.

    ``weights_bytes_per_gpu``, ``reserve_bytes_per_gpu`` (activations, CUDA graphs, NCCL) and
    ``kv_bytes_per_gpu`` are bytes on the fullest GPU; ``kv_blocks`` counts the worker's blocks
    of ``block_size`` tokens over all its attention-DP ranks. ``kv_bytes_per_token`` is what one
    token's KV weighs in a transfer (each distinct shard once), and ``kv_shards`` the number of
    GPUs that hold distinct shards of one request's KV, hence send in parallel.
    """

    weights_bytes_per_gpu: float
    reserve_bytes_per_gpu: float
    kv_bytes_per_gpu: float
    kv_bytes_per_token: float
    kv_blocks: int
    block_size: int
    kv_shards: int
