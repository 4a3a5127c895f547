"""What the servers of measured co-located runs were launched with, from their public scripts.

The rows of InferenceX are runs of scripts that it publishes; what is here is what these say, and
nothing is fitted. A run that no script speaks of keeps its engine's defaults.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

from simulator.model import Model

SOURCES = MappingProxyType(
    {
        "sglang": "SemiAnalysisAI/InferenceX benchmarks/dsr1_{fp4,fp8}_b200.sh@1fc5d73c and "
        "dsr1_fp8_h200.sh@1fc5d73c; benchmarks/single_node/dsr1_{fp4,fp8}_b300.sh@56324839, "
        "qwen3.5_bf16_b200.sh@29d69fa5, qwen3.5_fp8_b200.sh@01fa35cf, "
        "qwen3.5_fp4_b200.sh@088fe663, qwen3.5_{bf16,fp8,fp4}_b300.sh@56324839",
        "trtllm": "SemiAnalysisAI/InferenceX benchmarks/dsr1_{fp4,fp8}_b200_trt_slurm.sh, "
        "dsr1_fp8_h200_trt_slurm.sh@b5ebafa3 (to 1.1) and dsr1_fp8_b200_trt.sh@0a919c5f, "
        "single_node/dsr1_{fp4,fp8}_b200_trt.sh@34bc7c40 (1.2: pull requests 594 and 620)",
    }
)

_SGLANG = """
deepseek nvfp4     b200_sxm,b300_sxm * *         16384 256     0.85 10,30 fused -
deepseek fp8_block b200_sxm,b300_sxm 8 *         32768 128     0.82 10,30 fused -
deepseek fp8_block b200_sxm,b300_sxm 4 *          8192 32      0.95 10,10 fused -
deepseek fp8_block h200_sxm          * 1024/1024 32768 512     0.82 1,1   fused -
deepseek fp8_block h200_sxm          * *         32768 256     0.82 1,1   fused -
qwen3_5  bf16      b200_sxm,b300_sxm * *         32768 128     0.82 10,30 fused -
qwen3_5  fp8_block b200_sxm          * *         32768 128     0.82 10,30 own   -
qwen3_5  nvfp4     b200_sxm          * *         32768 128+    0.85 30,30 own   -
qwen3_5  fp8_block b300_sxm          * *         16384 0+      0.8  10,10 nccl  bf16
qwen3_5  nvfp4     b300_sxm          8 *         32768 128     0.8  10,30 fused bf16
qwen3_5  nvfp4     b300_sxm          * *         32768 128     0.8  10,30 own   bf16
"""
# model, weights, GPUs, GPUs of a worker, input/output tokens, chunked-prefill-size,
# max-running-requests (+: or as many as clients, if these are more), mem-fraction-static,
# scheduler-recv-interval below MANY clients and from there, how all-reduces are done (fused with
# the norm after them, by SGLang's own kernels, or by NCCL over symmetric memory), and
# mamba-ssm-dtype. Of the lines of a run the first counts.

FUSED = ("deepseek", "gpt_oss", "glm_4", "qwen3_235b", "qwen3_30b", "qwen3_coder")
"""Models whose all-reduces SGLang fuses unasked inside a box (its pull request 12724 and after)."""
FIRST_FAST = (0, 5, 11)
BUILT_FAST = 20260504
"""Version, and day of a nightly build, from which SGLang's own all-reduces are as fast as any (pull
request 24363)."""

MANY = 16
"""Clients from which SGLang's scripts let it look for requests less often."""
TRTLLM_SHARES = MappingProxyType({"b200_sxm": 0.8, "h200_sxm": 0.75})
"""free_gpu_memory_fraction of TensorRT-LLM's scripts."""
TRTLLM_FLOOR = 8192
"""Least max_num_tokens of TensorRT-LLM's scripts since their engine is 1.2."""
DEEPGEMM_CLIENTS = 256
"""Clients from which dsr1_fp8_b200_trt.sh has 1k/8k computed by DeepGEMM, the engine's own here."""
WAITING_CLIENTS = 64
"""Clients from which dsr1_fp8_b200_trt.sh has prompts of 1k/1k wait for others."""
WAIT = (40, 0.8)
"""Its batch_wait_timeout_iters and batch_wait_max_tokens_ratio."""
BALANCE_ITERS = 60
"""timeout_iters of attention_dp_config with enable_balance, wherever attention-DP is on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What of a measured run its script asks for.

    ``version`` is of up to three numbers, of a nightly build its day first, and ``()`` of before
    the first said. ``gpus`` are those of a worker, ``ranks`` its attention-DP ranks, ``tokens`` the
    nominal lengths of prompts and answers.
    """

    engine: str
    version: tuple[int, ...]
    model: str
    weights: str
    gpu: str
    gpus: int
    ranks: int
    tokens: tuple[int, int]
    clients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A server's limits of a step, per attention rank, its share of memory and how it admits.

    ``moe_backend``: what computes its experts, by its engine's own kernels where ``None``.
    ``unfused``: all-reduces are of SGLang's first custom kernels; ``linear_state``: the dtype of
    linear layers' states, the engine's default where ``None``.
    """

    step_tokens: int | None = None
    seqs: int | None = None
    memory_share: float | None = None
    chunked: bool = True
    recv_interval: int = 1
    wait: tuple[int, float] = (0, 0.0)
    balance_iters: int = 0
    moe_backend: str | None = None
    unfused: bool = False
    linear_state: str | None = None

    def served(self, model: Model) -> Model:
        """Return the model with linear layers' states as they are kept."""
        return replace(model, linear_state=self.linear_state) if self.linear_state else model


DEFAULT = Launch()


def launch(run: Run) -> Launch:
    """Return what the server of a run was launched with, as far as its script says."""
    if run.engine == "sglang":
        plain = Launch(unfused=_slow(run.version) and not run.model.startswith(FUSED))
        return next((rule.launch(run) for rule in RULES if rule.is_of(run)), plain)
    if run.engine == "trtllm" and run.model.startswith("deepseek") and run.gpu in TRTLLM_SHARES:
        return _trtllm(run)
    return DEFAULT


def _slow(version: tuple[int, ...]) -> bool:
    """Tell whether SGLang's own all-reduces were of the first custom kernels."""
    if not version:
        return False
    return version[0] < BUILT_FAST if version[0] > FIRST_FAST[0] + 1000 else version < FIRST_FAST


def _trtllm(run: Run) -> Launch:
    """Return TensorRT-LLM's: room for a prompt beside all decodes, whole prompts (its default)."""
    tokens = (run.clients + run.tokens[0] + 64 + 63) // 64 * 64
    recent = run.version >= (1, 2)
    waits = recent and run.gpu == "b200_sxm" and run.weights == "fp8_block" and run.ranks == 1
    waits = waits and run.tokens == (1024, 1024) and run.clients >= WAITING_CLIENTS
    return Launch(
        step_tokens=max(tokens, TRTLLM_FLOOR) if recent else tokens,
        memory_share=TRTLLM_SHARES[run.gpu],
        chunked=False,
        wait=WAIT if waits else (0, 0.0),
        balance_iters=BALANCE_ITERS if run.ranks > 1 else 0,
        moe_backend=_moe_backend(run) if recent and run.gpu == "b200_sxm" else None,
    )


def _moe_backend(run: Run) -> str | None:
    """Return the backend of experts of the scripts since 1.2; before, runs do not tell theirs."""
    if run.weights == "nvfp4":
        return "cutlass" if run.ranks > 1 else None
    deepgemm = run.tokens == (1024, 8192) and run.clients >= DEEPGEMM_CLIENTS
    return None if deepgemm else "trtllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of SGLang's scripts; ``None`` is of any worker, or of any lengths."""

    model: str
    weights: str
    cards: tuple[str, ...]
    gpus: int | None
    tokens: tuple[int, int] | None
    step_tokens: int
    seqs: int
    follows: bool
    memory_share: float
    intervals: tuple[int, int]
    reduces: str
    state: str | None

    def is_of(self, run: Run) -> bool:
        """Tell whether it speaks of a run."""
        return (
            run.model.startswith(self.model)
            and run.weights == self.weights
            and run.gpu in self.cards
            and self.gpus in (None, run.gpus)
            and self.tokens in (None, run.tokens)
        )

    def launch(self, run: Run) -> Launch:
        """Return what it says of a run."""
        return Launch(
            step_tokens=self.step_tokens,
            seqs=max(self.seqs, run.clients) if self.follows else self.seqs,
            memory_share=self.memory_share,
            recv_interval=self.intervals[run.clients >= MANY],
            unfused=self.reduces == "own" and _slow(run.version),
            linear_state=self.state,
        )


def _parsed() -> Iterator[Rule]:
    for line in _SGLANG.strip().splitlines():
        model, weights, cards, gpus, lengths, tokens, seqs, share, *last = line.split()
        intervals, reduces, state = last
        few, many = map(int, intervals.split(","))
        prompt, _, answer = lengths.partition("/")
        yield Rule(
            model=model,
            weights=weights,
            cards=tuple(cards.split(",")),
            gpus=None if gpus == "*" else int(gpus),
            tokens=None if lengths == "*" else (int(prompt), int(answer)),
            step_tokens=int(tokens),
            seqs=int(seqs.rstrip("+")),
            follows=seqs.endswith("+"),
            memory_share=float(share),
            intervals=(few, many),
            reduces=reduces,
            state=None if state == "-" else state,
        )


RULES = tuple(_parsed())
