"""What an engine holds of a GPU beside weights and KV, and what it leaves for KV: rules as data."""

from dataclasses import dataclass

from simulator.errors import ConfigError

GIB = 2.0**30
SHARES = ("total", "unloaded", "loaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRule:
    """How an engine divides a GPU's memory; bytes are of one GPU.

    ``share_of`` is what ``memory_utilization`` is a share of: ``total``, the GPU's memory, of
    which KV gets what weights, the processes and the largest step leave (vLLM); ``unloaded``,
    what is free before weights are loaded, of which KV gets what they leave, while steps and CUDA
    graphs live in the rest (SGLang's ``mem_fraction_static``); ``loaded``, what weights, the
    processes and the largest step leave, of which KV gets that share (TensorRT-LLM's
    ``free_gpu_memory_fraction``).

    ``hidden_bytes`` of the card are not offered to programs (page tables, error correction).
    ``context_bytes`` are held by a process before it computes, ``communicator_bytes`` more where
    a worker has several GPUs. Sampling holds ``logit_bytes`` per sequence and entry of the
    vocabulary, at once with a step's activations or, with ``sampling_after_step``, after it.
    MXFP4 experts are padded to multiples of ``mxfp4_hidden`` × ``mxfp4_width``.

    Raises:
        ConfigError: an unknown share, or a number below its least.

    """

    share_of: str = "total"
    hidden_bytes: float = 0.0
    context_bytes: float = 3.5 * GIB  # context, graphs, workspaces: AIConfigurator's other_mem
    communicator_bytes: float = 0.35 * GIB  # NCCL: AIConfigurator has 0.33 to 0.38 GiB
    logit_bytes: float = 4.0  # fp32
    sampling_after_step: bool = False
    mxfp4_hidden: int = 1
    mxfp4_width: int = 1
    source: str = ""

    def __post_init__(self) -> None:
        if self.share_of not in SHARES:
            raise ConfigError(
                f"memory: share_of must be one of {', '.join(SHARES)} but got {self.share_of!r}"
            )
        for name in ("hidden_bytes", "context_bytes", "communicator_bytes", "logit_bytes"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"memory: {name} must be at least 0 bytes but got {getattr(self, name)!r}"
                )
        for name in ("mxfp4_hidden", "mxfp4_width"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"memory: {name} must be a whole number ≥ 1 but got {value!r}")

    def processes(self, gpus: int) -> float:
        """Return the bytes a worker of ``gpus`` GPUs holds on each before it computes."""
        return self.context_bytes + (self.communicator_bytes if gpus > 1 else 0.0)

    def step(self, activations: float, logits: float) -> float:
        """Return the bytes of a step with so many of activations and entries of logits."""
        sampling = logits * self.logit_bytes
        if self.sampling_after_step:
            return max(activations, sampling)
        return activations + sampling
