"""Throughput that vendors publish and that nothing here was fitted or chosen by.

From NVIDIA's TensorRT-LLM performance overviews: of 1.0 every figure whose model, GPU and layout
are not among the measured serving runs, of 0.19 Llama-3.3-70B on B200 by TP (the first three
lengths). None is left out for its error.
"""

from collections.abc import Iterator

from simulator.validation.tables import Row

_V1_0 = (
    "NVIDIA/TensorRT-LLM docs/source/performance/perf-overview.md"
    "@00f37686aa854010d68bcbd0f4ab000221541ca6 (v1.0)"
)
_V0_19 = "NVIDIA/TensorRT-LLM 0.19.0/performance/perf-overview.html"

_TABLES = {
    _V0_19: """
Llama-3.3-70B   fp4 B200 TP1  128/128=11253 128/2048=9925 128/4096=6319
Llama-3.3-70B   fp4 B200 TP2  128/128=17868 128/2048=15460 128/4096=8712
Llama-3.3-70B   fp4 B200 TP4  128/128=24945 128/2048=23609 128/4096=17660
Llama-3.3-70B   fp4 B200 TP8  128/128=27471 128/2048=30743 128/4096=24947
""",
    _V1_0: """
Llama-3.1-405B  fp4 B200 TP4  128/128=6281 128/2048=8020 128/4096=6345 500/2000=6244 1000/1000=5209
Llama-3.1-405B  fp4 B200 TP4  1000/2000=4933 2048/128=749 2048/2048=4212 5000/500=1048
Llama-3.1-405B  fp4 B200 TP4  20000/2000=672
Llama-3.1-405B  fp4 GB200 TP4 128/128=6740 128/2048=8151 128/4096=6608 500/2000=6540 1000/1000=5389
Llama-3.1-405B  fp4 GB200 TP4 1000/2000=5135 2048/128=797 2048/2048=4407 5000/500=1112
Llama-3.1-405B  fp4 GB200 TP4 20000/2000=739
Llama-3.1-405B  fp8 H200 TP8  128/128=3814 128/2048=5348 128/4096=4741 500/2000=4724 1000/1000=3330
Llama-3.1-405B  fp8 H200 TP8  1000/2000=3722 2048/128=456 2048/2048=2948 5000/500=650
Llama-3.1-405B  fp8 H200 TP8  20000/2000=505
Llama-3.1-405B  fp8 H100 TP8  128/128=3627 128/2048=4340 128/4096=3116 500/2000=3994 1000/1000=2919
Llama-3.1-405B  fp8 H100 TP8  1000/2000=2895 2048/128=453 2048/2048=2296 5000/500=610
Llama-3.1-405B  fp8 H100 TP8  20000/2000=345
Qwen3-30B-A3B   fp4 B200 TP1  128/128=39827 128/2048=37844 128/4096=24953 500/2000=27817
Qwen3-30B-A3B   fp4 B200 TP1  1000/1000=25828 1000/2000=22051 2048/128=6251 2048/2048=17554
Qwen3-30B-A3B   fp4 B200 TP1  5000/500=6142 20000/2000=2944
Qwen3-30B-A3B   fp4 GB200 TP1 128/128=24107 128/2048=31311 128/4096=26337 500/2000=20604
Qwen3-30B-A3B   fp4 GB200 TP1 1000/1000=17481 1000/2000=17177 2048/128=6595 2048/2048=14719
Qwen3-30B-A3B   fp4 GB200 TP1 5000/500=5908 20000/2000=3203
Llama-4-Scout   fp4 RTXPRO6000 TP2PP2 128/128=18644 128/2048=12321 128/4096=7643 1000/1000=9476
Llama-4-Scout   fp4 RTXPRO6000 TP2PP2 1000/2000=8919 2048/128=2615 2048/2048=6208 5000/500=2662
Llama-4-Scout   fp4 RTXPRO6000 TP4PP2 128/128=23454 128/2048=21035 128/4096=13421 1000/1000=15781
Llama-4-Scout   fp4 RTXPRO6000 TP4PP2 1000/2000=16434 2048/128=2941 2048/2048=10410
Qwen3-235B-A22B fp4 RTXPRO6000 TP2PP4 128/128=18890 128/2048=12494 128/4096=7715 500/2000=11157
Qwen3-235B-A22B fp4 RTXPRO6000 TP2PP4 1000/1000=10697 1000/2000=10109 2048/128=3181 2048/2048=6712
Qwen3-235B-A22B fp4 RTXPRO6000 TP2PP4 5000/500=3173
Llama-4-Maverick fp4 RTXPRO6000 TP4PP2 128/128=30583 128/2048=19146 128/4096=12165 500/2000=17870
Llama-4-Maverick fp4 RTXPRO6000 TP4PP2 1000/1000=15954 1000/2000=12456 2048/128=4463
Llama-4-Maverick fp4 RTXPRO6000 TP4PP2 2048/2048=10727 5000/500=4613
Qwen3-30B-A3B   fp4 RTXPRO6000 TP1 128/128=28011 128/2048=12540 128/4096=7491 500/2000=10695
Qwen3-30B-A3B   fp4 RTXPRO6000 TP1 1000/1000=9910 1000/2000=8378 2048/128=3257 2048/2048=5908
Qwen3-30B-A3B   fp4 RTXPRO6000 TP1 5000/500=2530 20000/2000=871
Qwen3-30B-A3B   fp4 RTXPRO6000 TP2 128/128=32646 128/2048=22744 128/4096=15049 500/2000=17266
Qwen3-30B-A3B   fp4 RTXPRO6000 TP2 1000/1000=16431 1000/2000=13323 2048/128=3785 2048/2048=10679
Qwen3-30B-A3B   fp4 RTXPRO6000 TP2 5000/500=3799 20000/2000=1558
Qwen3-30B-A3B   fp4 RTXPRO6000 TP4 128/128=36819 128/2048=35715 128/4096=28139 500/2000=26175
Qwen3-30B-A3B   fp4 RTXPRO6000 TP4 1000/1000=24046 1000/2000=25131 2048/128=4311 2048/2048=18134
Qwen3-30B-A3B   fp4 RTXPRO6000 TP4 5000/500=5212 20000/2000=2551
Qwen3-30B-A3B   fp4 RTXPRO6000 TP8 128/128=39490 128/2048=52676 128/4096=33895 500/2000=44088
Qwen3-30B-A3B   fp4 RTXPRO6000 TP8 1000/1000=31785 1000/2000=28881 2048/128=4798 2048/2048=22391
Qwen3-30B-A3B   fp4 RTXPRO6000 TP8 5000/500=5965
Llama-3.1-405B  fp4 RTXPRO6000 TP1PP8 128/128=4452 128/2048=2981 1000/1000=2369 1000/2000=1931
Llama-3.1-405B  fp4 RTXPRO6000 TP1PP8 2048/128=579 2048/2048=1442
""",
}
# model, weights, GPU, layout, then input/output tokens = output tokens/s of the whole deployment


def public_rows() -> list[Row]:
    """Return the figures as rows of serving runs, numbered ``f1`` and on."""
    return [{**row, "id": f"f{at}"} for at, row in enumerate(_rows(), 1)]


def _rows() -> Iterator[Row]:
    for source, table in _TABLES.items():
        for line in table.strip().splitlines():
            model, weights, gpu, layout, *figures = line.split()
            gpus = _gpus(layout)
            for figure in figures:
                lengths, total = figure.split("=")
                isl, osl = lengths.split("/")
                yield {
                    "source": source,
                    "model": model,
                    "precision": weights,
                    "gpu": gpu,
                    "n_gpus": str(gpus),
                    "engine": "TensorRT-LLM (pytorch backend)",
                    "mode": "agg",
                    "prefill_parallel": layout,
                    "decode_parallel": layout,
                    "isl": isl,
                    "osl": osl,
                    "concurrency_or_rate": "offline",
                    "ttft_ms": "",
                    "tpot_ms": "",
                    "tok_s_per_gpu_out": str(float(total) / gpus),
                    "notes": "",
                }


def _gpus(layout: str) -> int:
    """Return how many GPUs a layout such as ``TP2PP4`` takes."""
    tensor, _, stages = layout.removeprefix("TP").partition("PP")
    return int(tensor) * int(stages or 1)
