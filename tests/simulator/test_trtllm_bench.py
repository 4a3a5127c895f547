"""The limits that TensorRT-LLM's offline benchmark chooses for itself, by its own rule."""

import pytest

from simulator.latency.engine import load
from simulator.layout import Layout, Precision
from simulator.validation.names import Catalogue
from simulator.validation.trtllm_bench import Benchmark, Limits, captured, limits

NVFP4 = Precision(weights="nvfp4", activations="nvfp4", kv="fp8")
FP8 = Precision(weights="fp8", activations="fp8", kv="fp8")
MXFP4 = Precision(weights="mxfp4", activations="bf16", kv="fp8")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """Everything the package ships."""
    return Catalogue.shipped()


@pytest.mark.parametrize(
    ("model", "gpu", "precision", "layout", "lengths", "chosen"),
    [
        # As a log of the benchmark says (TensorRT-LLM issue 6294: 28 tokens out on average).
        ("llama_3_1_8b", "h100_sxm", FP8, Layout(), (128, 28), (4096, 23552)),
        # By hand: (192e9 − 70.6e9 · 0.5625 · 0.5) · 0.95 / (163,840 · 2,176) = 458 sequences, up to
        # the next 128; (1 + 128 / 2048) · 458 = 486 tokens, of which there are 2,048 at least.
        ("llama_3_1_70b", "b200_sxm", NVFP4, Layout(), (128, 2048), (512, 2048)),
        # Sequences are of all stages together: 4,096 / 8, of which 17 · 512 = 8,704 tokens.
        ("llama_3_1_8b", "rtx_pro_6000_server", NVFP4, Layout(pp=8), (2048, 128), (512, 9216)),
        # A quantisation it does not know leaves the engine's own limits.
        ("gpt_oss_120b", "h200_sxm", MXFP4, Layout(), (1024, 1024), (2048, 8192)),
    ],
)
def test_the_benchmark_chooses_by_what_fits(
    model: str,
    gpu: str,
    precision: Precision,
    layout: Layout,
    lengths: tuple[int, int],
    chosen: tuple[int, int],
    catalogue: Catalogue,
) -> None:
    """Sequences by KV that memory seems to leave, tokens by the share of prompts, both rounded."""
    isl, osl = lengths
    run = Benchmark(
        model=catalogue.models[model],
        precision=precision,
        gpu=catalogue.gpus[gpu],
        layout=layout,
        isl=isl,
        osl=osl,
        chunked=False,
    )
    assert limits(run) == Limits(sequences=chosen[0], tokens=chosen[1])


def test_prompts_that_are_not_chunked_fit_a_step(catalogue: Catalogue) -> None:
    """A step holds a whole prompt where none is computed in parts."""
    models, gpus = catalogue.models, catalogue.gpus
    run = Benchmark(
        model=models["llama_3_1_405b"], precision=FP8, gpu=gpus["h100_sxm"], layout=Layout(tp=8),
        isl=60_000, osl=60_000, chunked=False,
    )  # fmt: skip
    assert limits(run).tokens == 60_000


def test_graphs_end_with_the_most_sequences() -> None:
    """Steps are padded to the captured batches, the largest of which is the limit itself."""
    engine = captured(load("trtllm"), 1536)
    assert engine.graph_sizes[-3:] == (512, 1024, 1536)
    assert engine.padded(1100) == 1536
