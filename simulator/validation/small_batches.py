"""Public decode times of dense FP8 models at few sequences, beside ours by whose kernels.

FP8 products of few rows are a matter of floors: what a kernel takes however little it does. Whether
the measured ones are those of deployments is told by whole steps that neither fit nor data have.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from simulator.latency.base import WorkerSpec
from simulator.latency.passes import Load
from simulator.latency.roofline import Roofline
from simulator.layout import Layout
from simulator.validation.names import Catalogue, precision
from simulator.validation.steps import NO_MEMORY

CONTEXT = 1500.0
"""KV tokens of a sequence halfway: 1,000 in and 1,000 out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Milliseconds per output token of Llama-3.1-8B in FP8 on B200s, 1,000 tokens in and out."""

    tp: int
    clients: int
    engine: str
    tpot_ms: float
    source: str


BESIDE = "TensorRT-LLM pull request 14629"
PIPELINED = "TensorRT-LLM issue 13957, clients over tokens per second, prompts included"
FIGURES = (
    Figure(tp=2, clients=1, engine="trtllm", tpot_ms=2.35, source=BESIDE),
    Figure(tp=2, clients=2, engine="trtllm", tpot_ms=2.37, source=BESIDE),
    Figure(tp=1, clients=64, engine="trtllm", tpot_ms=64e3 / 13806, source=PIPELINED),
    Figure(tp=1, clients=64, engine="vllm", tpot_ms=64e3 / 15638, source=PIPELINED),
)


def step_ms(figure: Figure, engine: str, catalogue: Catalogue, weights: str = "fp8") -> float:
    """Return milliseconds of the figure's decode step with an engine's kernels."""
    name, model = catalogue.model("Llama-3.1-8B")
    gpu = catalogue.gpu("B200")
    worker = WorkerSpec(
        model=model,
        layout=Layout(tp=figure.tp),
        precision=precision(weights, name, gpu),
        gpu=gpu,
        fabric=catalogue.fabric(gpu),
        memory=NO_MEMORY,
        role="mixed",
    )
    load = Load(batch=float(figure.clients), context=figure.clients * CONTEXT)
    return 1e3 * float(Roofline(engine=engine).pass_seconds(worker, load))


def section(catalogue: Catalogue) -> str:
    """Return the figures beside ours, as part of docs/validation.md."""
    return "\n\n".join([_WORDS, "\n".join(_table(catalogue))])


def _table(catalogue: Catalogue) -> Iterator[str]:
    yield "| engine | TP | clients | public | own | error | generic | error | own, BF16 | source |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    for figure in FIGURES:
        cells = [figure.engine, str(figure.tp), str(figure.clients), f"{figure.tpot_ms:.2f} ms"]
        for engine in (figure.engine, "generic"):
            ours = step_ms(figure, engine, catalogue)
            cells += [f"{ours:.2f} ms", f"{100.0 * (ours / figure.tpot_ms - 1.0):+.0f} %"]
        cells += [f"{step_ms(figure, figure.engine, catalogue, 'bf16'):.2f} ms", figure.source]
        yield f"| {' | '.join(cells)} |"


_WORDS = """## FP8 at small batches

Tables of kernels have FP8 products of few rows slower than 16-bit ones: 14 to 21 µs for the
smallest of TensorRT-LLM on B200 against 6 µs. What was measured finds a scale for its rows and
applies it, two kernels more in every call, as it was loaded without a scale of the input
(`collector/trtllm/collect_gemm.py` of AIConfigurator); the tables have both kernels apart
(`quantize`). Checkpoints state the scale, so that what comes before writes 8 bits: attention,
SwiGLU (TensorRT-LLM pull request 6540) and, up to 8 MB, an all-reduce with its norm (16 MB of two
ranks; `RESIDUAL_RMS_NORM_QUANT_FP8`, pull request 14629); otherwise one kernel does (`fp8_scales`
of `conf/engine`). So products are fitted without that quantising (shapes held out: 4 µs to start
instead of 13 on every GPU, and no longer as if 1,500 columns wider), and the steps of the tables
keep it, of which the fit is as good as before. Below is Llama-3.1-8B in FP8 on B200, 1,000 tokens
in and out, with the engine's own kernels, with `latency.engine=generic`, and its own, BF16. Nothing
was fitted to these: that tables and public steps disagreed led to the source above, whose change
also took offline throughput of Llama-3.1-405B on H200 from 9 to 2 % too low. vLLM's host works
after the GPU here, as in the runs of 0.19 it is fitted to; the vLLM 0.20 below schedules ahead."""
