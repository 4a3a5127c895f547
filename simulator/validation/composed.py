"""Which backend computes the experts of the tables' forward steps.

AIConfigurator composes a step of TensorRT-LLM's experts in NVFP4 by its TRTLLM-gen kernels up to
128 tokens of all ranks, and by CUTLASS beyond: 20.1 ms of 128 sequences of DeepSeek on B200 (TP4,
EP4) are 34.9 of 129. Where the former were not measured, all are CUTLASS's.
"""

from simulator.validation.tables import Row

BLACKWELLS = ("b200_sxm", "gb200", "b300_sxm", "gb300")
"""Systems with both backends."""
MEASURED = ("b200_sxm", "gb200")
"""Of these, those on which TensorRT-LLM's TRTLLM-gen kernels were measured."""
FEW = 128
"""The most tokens that these compute in a composed step."""


def moe_backend(row: Row, tokens: float) -> str | None:
    """Return the backend of a step of so many ``tokens`` of all ranks, ``None``: the engine's."""
    experts = row.get("backend") == "trtllm" and row.get("moe") == "nvfp4"
    if not experts or row["system"] not in BLACKWELLS:
        return None
    return None if row["system"] in MEASURED and tokens <= FEW else "cutlass"
