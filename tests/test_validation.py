"""Validation: names find their specifications, rows are scored or counted, bad files refused."""

import csv
import json
import re
import sys
import xml.etree.ElementTree as ET  # reads only what these tests drew
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from simulator.deployment import Batching
from simulator.errors import ConfigError
from simulator.latency.base import StepModel, WorkerSpec
from simulator.latency.roofline import Roofline
from simulator.layout import Layout
from simulator.validation import __main__ as command
from simulator.validation import (
    figures,
    first_token,
    page,
    plots,
    recipes,
    replay,
    score,
    serving,
    steps,
)
from simulator.validation.__main__ import main
from simulator.validation.names import Catalogue, Unmapped, Workers, precision, unfolded, workers
from simulator.validation.score import Scored

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no measured tables at {DATA}")

STEP = {
    "model": "meta-llama/Meta-Llama-3.1-8B",
    "system": "h100_sxm",
    "backend": "trtllm",
    "tp": "1",
    "phase": "decode",
    "batch": "8",
    "isl": "",
    "context": "1024",
    "gemm": "fp8",
    "kvcache": "fp8",
    "latency_ms": "5.0",
}
RUN = {
    "id": "r1",
    "source": "somebody notes",
    "model": "Llama-3.1-8B",
    "precision": "fp8",
    "gpu": "H100",
    "n_gpus": "1",
    "engine": "trtllm 1.0",
    "mode": "agg",
    "prefill_parallel": "TP1",
    "decode_parallel": "TP1",
    "isl": "512",
    "osl": "64",
    "concurrency_or_rate": "4",
    "ttft_ms": "20",
    "tpot_ms": "5",
    "tok_s_per_gpu_out": "600",
    "notes": "",
}
META = {
    "model": "meta-llama/Llama-3.1-8B",
    "engine_kwargs": {"max_num_seqs": 4, "max_num_batched_tokens": 2048, "dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """Everything the package ships."""
    return Catalogue.shipped()


def table(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write rows as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run_folder(folder: Path, **changes: Any) -> Path:
    """Write a vLLM run of six requests; ``changes`` replace fields of the third."""
    folder.mkdir(exist_ok=True)
    (folder / "H100_tiny__meta.json").write_text(json.dumps(META))
    requests: list[dict[str, Any]] = [
        {
            "input_toks": 300,
            "output_toks": 20,
            "arrival_time": 1.7e9 + number,
            "queued_ts": 100.0 + 0.1 * number,
            "first_token_ts": 100.05 + 0.1 * number,
            "last_token_ts": 100.25 + 0.1 * number,
        }
        for number in range(6)
    ]
    requests[2] = {name: value for name, value in {**requests[2], **changes}.items() if value != ""}
    lines = "\n".join(json.dumps(each) for each in requests)
    (folder / "H100_tiny__requests.jsonl").write_text(lines)
    return folder


def by_set(rows: Sequence[Scored]) -> dict[str, Scored]:
    """Return the scored rows of one measured row by their set."""
    return {row.set: row for row in rows}


# --- first tokens ---------------------------------------------------------------------------


def late(row: Mapping[str, str], catalogue: Catalogue, seconds: float) -> dict[str, str]:
    """Return the row with the figures of its own simulation, the first token so much later."""
    case = serving.case_of(row, catalogue)
    transfer = replace(case.deployment.transfer, handover_s=0.0, recomputes=False)
    bare = replace(case, deployment=replace(case.deployment, gateway_s=0.0, transfer=transfer))
    ours = serving.simulate_case(bare, 0)
    return {
        **row,
        "ttft_ms": str(1e3 * (ours.ttft_s + seconds)),
        "tpot_ms": str(1e3 * ours.tpot_s),
    }


def test_the_waits_of_first_tokens_are_found(catalogue: Catalogue) -> None:
    """Runs whose first tokens came so much later give that gateway and hand-over back."""
    rows = []
    for gpu in ("H200", "B200"):
        mixed = {**RUN, "gpu": gpu, "concurrency_or_rate": "1"}
        rows.append(late(mixed, catalogue, 0.11))
        rows.append(late({**mixed, "mode": "disagg"}, catalogue, 0.18))
        rows.append(late({**mixed, "concurrency_or_rate": "32"}, catalogue, 0.7))  # they queue
        rows.append(late(mixed, catalogue, 7.0))  # it was starting
        rows.append({**late(mixed, catalogue, 0.6), "tpot_ms": "50"})  # other steps than ours
    found = first_token.estimates([*first_token.sightings(rows, catalogue)])
    assert found["gateway_s"].seconds == pytest.approx(0.11, abs=0.003)
    assert found["handover_s"].seconds == pytest.approx(0.07, abs=0.003)
    for value in found.values():
        assert (value.rows, value.gpus, value.judged, value.unseen) == (1, ("H200",), 1, True)
        assert value.before_s is not None
        assert value.after_s is not None
        assert value.after_s < 0.01 < value.before_s


def test_a_wait_that_helps_no_unseen_row_is_of_all(catalogue: Catalogue) -> None:
    """It is told so; and where rows are short of nothing there is no wait, never a negative."""
    other, judged = ({**RUN, "gpu": gpu, "concurrency_or_rate": "1"} for gpu in ("H200", "B200"))
    rows = [late(other, catalogue, 0.1), late(judged, catalogue, 0.0)]
    found = first_token.estimates([*first_token.sightings(rows, catalogue)])["gateway_s"]
    assert found.seconds == pytest.approx(0.05, abs=0.003)
    assert (found.rows, found.unseen) == (2, False)
    soon = [late(each, catalogue, -0.004) for each in (other, judged)]
    none = first_token.estimates([*first_token.sightings(soon, catalogue)])["gateway_s"]
    assert none.seconds == 0.0


def test_replayed_runs_have_no_gateway(catalogue: Catalogue, tmp_path: Path) -> None:
    """Their arrivals are those at the worker's queue, whatever the profile says."""
    (measured,) = replay.read_runs(run_folder(tmp_path))
    assert replay.deployment_of(measured, catalogue).entry_s == 0.0


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("meta-llama/Meta-Llama-3.1-70B", "llama_3_1_70b"),
        ("Llama-3.3-70B", "llama_3_1_70b"),
        ("deepseek-ai/DeepSeek-R1(V3 arch)", "deepseek_r1"),
        ("DeepSeek-R1-0528", "deepseek_r1"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek_v3"),
        ("Qwen3-235B-A22B-2507", "qwen3_235b_a22b"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3_30b_a3b"),
        ("Qwen/Qwen3.5-397B-A17B", "qwen3_5_397b_a17b"),
        ("MiniMaxAI/MiniMax-M2.5", "minimax_m2"),
        ("zai-org/GLM-5-FP8", "glm_5"),
        ("Llama-4-Maverick", "llama_4_maverick"),
        ("openai/gpt-oss-120b", "gpt_oss_120b"),
    ],
)
def test_models_are_found_by_their_public_names(catalogue: Catalogue, text: str, name: str) -> None:
    """Organisation, remarks and checkpoint endings do not hide the shape."""
    assert catalogue.model(text)[0] == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("h200_sxm", "H200 SXM"),
        ("H200 (some partition)", "H200 SXM"),
        ("gb200", "GB200 NVL72"),
        ("A100", "A100 80GB SXM"),
        ("RTXPRO6000", "RTX PRO 6000 Blackwell Server"),
        ("H20-96G", "H20 96GB"),
    ],
)
def test_gpus_are_found_by_their_public_names(catalogue: Catalogue, text: str, name: str) -> None:
    """A GPU is found with and without its form factor, memory or remark."""
    assert catalogue.gpu(text).name == name


@pytest.mark.parametrize("text", ["GB100", "RTX 3090", "H20-3", "H100x", ""])
def test_a_gpu_we_do_not_ship_is_not_guessed(catalogue: Catalogue, text: str) -> None:
    """A similar name is not taken for another GPU."""
    with pytest.raises(Unmapped, match="GPU not shipped"):
        catalogue.gpu(text)


@pytest.mark.parametrize(
    ("text", "count", "layout"),
    [
        ("TP8", 1, Layout(tp=8)),
        ("TP1PP4", 1, Layout(pp=4)),
        ("DEP8", 1, Layout(attention_dp=8, ep=8)),
        ("TEP8", 1, Layout(tp=8, ep=8)),
        ("DP2 EP2", 1, Layout(attention_dp=2, ep=2)),
        ("4x[ADP4 EP4]", 4, Layout(attention_dp=4, ep=4)),
        ("1x[ADP32]", 1, Layout(attention_dp=32, ep=32)),
        ("15x[TP4 EP4]", 15, Layout(tp=4, ep=4)),
        ("Attn-DP16 + EP16 (2 nodes)", 1, Layout(attention_dp=16, ep=16)),
        ("EP32 TP1", 1, Layout(attention_dp=32, ep=32)),
    ],
)
def test_layouts_are_read(catalogue: Catalogue, text: str, count: int, layout: Layout) -> None:
    """A text of degrees becomes workers and their layout."""
    assert workers(text, catalogue.models["deepseek_r1"]) == Workers(count=count, layout=layout)


def test_data_parallel_ranks_of_a_dense_model_are_workers(catalogue: Catalogue) -> None:
    """A dense model has nothing to share between data-parallel ranks."""
    found = workers("DP2 TP4", catalogue.models["llama_3_1_70b"])
    assert found == Workers(count=2, layout=Layout(tp=4))


@pytest.mark.parametrize(("text", "why"), [("", "not given"), ("TP8 EP4/EP2", "ambiguous")])
def test_a_layout_that_says_nothing_or_two_things_is_refused(
    catalogue: Catalogue, text: str, why: str
) -> None:
    """No layout is made up."""
    with pytest.raises(Unmapped, match="layout") as caught:
        workers(text, catalogue.models["deepseek_r1"])
    assert why in caught.value.reason


@pytest.mark.parametrize(
    ("text", "real"),
    [
        ("TP64 EP8", Layout(tp=8, ep=8)),
        ("TP4 EP2", Layout(tp=2, ep=2)),
        ("ADP16 EP4", Layout(attention_dp=4, ep=4)),
        ("ADP2xTP2 EP4", Layout(attention_dp=2, ep=2)),
        ("TP8", Layout(tp=8)),
        ("DEP8", Layout(attention_dp=8, ep=8)),
    ],
)
def test_multiplied_layouts_are_divided_again(
    catalogue: Catalogue, text: str, real: Layout
) -> None:
    """A group multiplied by its EP degree becomes the one that ran; others stay."""
    assert unfolded(workers(text, catalogue.models["deepseek_r1"])).layout == real


def test_the_overview_calls_attention_dp_tp(catalogue: Catalogue) -> None:
    """TensorRT-LLM's overview ran mixtures of experts with attention-DP and EP; dense stay TP."""
    source = {"source": "NVIDIA/TensorRT-LLM perf-overview.md", "engine": "TensorRT-LLM (pytorch)"}
    row = {**RUN, **source, "model": "Qwen3-235B-A22B", "decode_parallel": "TP8"}
    (pool,) = serving.case_of(row, catalogue).deployment.pools
    assert pool.layout == Layout(attention_dp=8, ep=8)
    (pool,) = serving.case_of(
        {**RUN, **source, "decode_parallel": "TP2"}, catalogue
    ).deployment.pools
    assert pool.layout == Layout(tp=2)


@pytest.mark.parametrize(
    ("gpu", "precision", "engine", "kv", "ep"),
    [
        ("H200", "fp8", "vllm 0.18.0", "bf16", 8),
        ("H200", "fp8", "sglang 0.5.9", "bf16", 8),
        ("H200", "fp8, fp8 KV", "vllm 0.18.0", "fp8", 8),
        ("H200", "fp8", "trtllm 1.2", "fp8", 1),
        ("B200", "fp8", "vllm 0.19.0", "fp8", 8),
        ("B200", "fp4", "vllm 0.19.0", "fp8", 1),
    ],
)
def test_engines_keep_their_defaults(
    catalogue: Catalogue, gpu: str, precision: str, engine: str, kv: str, ep: int
) -> None:
    """KV stays in 16 bits before Blackwell, and 1,536 columns of blocks of 128 are not cut in 8."""
    row = {**RUN, "model": "MiniMaxAI/MiniMax-M2.5", "gpu": gpu, "precision": precision}
    row |= {"engine": engine, "prefill_parallel": "TP8", "decode_parallel": "TP8"}
    (pool,) = serving.case_of(row, catalogue).deployment.pools
    assert (pool.precision.kv, pool.layout) == (kv, Layout(tp=8, ep=ep))
    halves = {**row, "prefill_parallel": "TP4", "decode_parallel": "TP4"}
    (pool,) = serving.case_of(halves, catalogue).deployment.pools
    assert pool.layout == Layout(tp=4)


def test_sparse_attention_reads_latents_in_eight_bits(catalogue: Catalogue) -> None:
    """VLLM keeps them so unasked."""
    row = {**RUN, "model": "zai-org/GLM-5-FP8", "gpu": "H200", "engine": "vllm"}
    row |= {"prefill_parallel": "TP8", "decode_parallel": "TP8"}
    (pool,) = serving.case_of(row, catalogue).deployment.pools
    assert pool.precision.kv == "fp8"


def test_precisions_follow_the_checkpoints(catalogue: Catalogue) -> None:
    """What is said counts, and what is not follows how the model is published."""
    gpu = catalogue.gpus["b200_sxm"]
    split = precision("nvfp4 MoE, bf16 attn", "deepseek_r1", gpu)
    assert (split.weights, split.attention, split.kv) == ("nvfp4", "bf16", "fp8")
    assert precision("fp4, fp16 KV", "llama_3_1_70b", gpu).kv == "bf16"
    deepseek = precision("fp4", "deepseek_r1", gpu)
    assert (deepseek.attention, deepseek.attention_out) == ("bf16", "nvfp4")
    assert deepseek.stored("shared_experts") == "nvfp4"
    kimi = precision("nvfp4", "kimi_k2", gpu)
    assert {kimi.stored(part) for part in ("attention_out", "shared_experts")} == {"bf16"}
    assert precision("fp8", "kimi_k2", gpu).attention is None
    assert precision("fp8", "deepseek_r1", gpu).weights == "fp8_block"
    assert precision("fp8", "llama_3_1_70b", gpu).weights == "fp8"
    assert precision("fp8", "gpt_oss_120b", gpu).weights == "mxfp4"
    int4 = precision("int4", "kimi_k2_5", gpu)
    assert (int4.weights, int4.activations, int4.attention) == ("int4", "bf16", "bf16")
    with pytest.raises(Unmapped, match="precision not known"):
        precision("w4a16", "llama_3_1_70b", gpu)


# --- scores ---------------------------------------------------------------------------------


def test_statistics_are_of_the_scored_rows() -> None:
    """Median, 90th percentile and bias by hand; skipped rows are counted by reason."""
    pairs = [(1.0, 1.1), (1.0, 0.8), (1.0, 1.4)]
    rows = [Scored(set="steps", row="0", measured=m, predicted=p) for m, p in pairs]
    rows.append(Scored(set="steps", row="3", reason="no GPU"))
    found = score.statistics(rows)
    assert (found["rows"], found["skipped"]) == (3, {"no GPU": 1})
    assert found["median_abs_pct"] == pytest.approx(20.0)
    assert found["p90_abs_pct"] == pytest.approx(36.0)
    assert found["bias_pct"] == pytest.approx(10.0)


def test_a_set_without_rows_has_no_figures() -> None:
    """Nothing measured is no error of zero."""
    assert score.statistics([])["median_abs_pct"] is None


# --- steps ----------------------------------------------------------------------------------


def test_every_step_row_is_scored_or_counted(catalogue: Catalogue) -> None:
    """Rows and skips add up, and each skip says why."""
    rows = [
        STEP,
        {**STEP, "phase": "prefill", "isl": "512"},
        {**STEP, "model": "Unheard-1B"},
        {**STEP, "system": "z80"},
        {**STEP, "tp": "3"},
        {**STEP, "phase": "training"},
        {**STEP, "latency_ms": "fast"},
        {**STEP, "gemm": "int3"},
        {**STEP, "gemm": "nvfp4"},
    ]
    scored = steps.score_steps(list(enumerate(rows)), catalogue)
    assert [int(row.row) for row in scored] == list(range(len(rows)))
    found = score.summary(scored)["steps"]
    assert found["rows"] == 2
    assert sum(found["skipped"].values()) == len(rows) - 2
    assert all(row.reason and row.detail for row in scored[2:])


def test_experts_have_a_precision_of_their_own(catalogue: Catalogue) -> None:
    """The ``moe`` column is that of a mixture's experts, and means nothing to a dense model."""
    sparse = {**STEP, "model": "gpt-oss-120b", "gemm": "bfloat16"}
    rows = [{**sparse, "moe": moe} for moe in ("bfloat16", "w4a16_mxfp4")]
    rows += [{**STEP, "moe": moe} for moe in ("bfloat16", "w4a16_mxfp4")]
    wide, narrow, *dense = [
        row.predicted for row in steps.score_steps(list(enumerate(rows)), catalogue)
    ]
    assert wide is not None
    assert narrow is not None
    assert narrow < wide
    assert dense[0] == dense[1]


def test_a_measured_prediction_has_no_error(catalogue: Catalogue) -> None:
    """Fed back as measurements, predictions score zero, alone or in a group."""
    rows = [{**STEP, "batch": str(batch)} for batch in (1, 8, 64)]
    first = steps.score_steps(list(enumerate(rows)), catalogue)
    again = [
        {**row, "latency_ms": repr(1e3 * (each.predicted or 0))}
        for row, each in zip(rows, first, strict=True)
    ]
    errors = [row.error_pct for row in steps.score_steps(list(enumerate(again)), catalogue)]
    assert errors == pytest.approx([0.0] * 3, abs=1e-9)


# --- serving runs ---------------------------------------------------------------------------


def test_a_closed_loop_is_run_as_it_was_measured(catalogue: Catalogue) -> None:
    """N clients, ten requests each, lengths in 0.8 to 1.0 of nominal, by Little's law."""
    case = serving.case_of(RUN, catalogue)
    assert (case.load.clients, case.load.requests) == (4, 40)
    inputs, outputs = case.load.lengths.sample(2000, np.random.default_rng(0))
    assert (inputs.min(), inputs.max()) == (410, 512)
    assert (outputs.min(), outputs.max()) == (51, 64)
    outcome = serving.simulate_case(case, seed=0)
    e2e = outcome.ttft_s + outcome.tpot_s * (outputs.mean() - 1)
    assert outcome.tokens_per_s == pytest.approx(4 * outputs.mean() / e2e, rel=0.05)


def test_more_clients_never_make_a_token_faster(catalogue: Catalogue) -> None:
    """TPOT and throughput both rise with concurrency."""
    clients = ("1", "8", "64")
    cases = [serving.case_of({**RUN, "concurrency_or_rate": n}, catalogue) for n in clients]
    outcomes = [serving.simulate_case(case, seed=1) for case in cases]
    for name in ("tpot_s", "tokens_per_s"):
        values = [getattr(outcome, name) for outcome in outcomes]
        assert values == sorted(values)


def test_disaggregated_rows_have_their_workers(catalogue: Catalogue) -> None:
    """Worker counts and layouts of both pools are the row's, the first token the decoder's."""
    row = {
        **RUN,
        "model": "DeepSeek-R1",
        "precision": "fp4",
        "gpu": "B200",
        "mode": "disagg",
        "prefill_parallel": "2x[ADP4 EP4]",
        "decode_parallel": "3x[TP8 EP8]",
    }
    deployment = serving.case_of(row, catalogue).deployment
    assert [(pool.role, pool.workers, pool.layout.gpus) for pool in deployment.pools] == [
        ("prefill", 2, 4),
        ("decode", 3, 8),
    ]
    assert deployment.first_token == "decode"  # noqa: S105 - a place, not a secret
    assert by_set(serving.score_row(row, 0, catalogue))["e2e_disagg_tpot"].error_pct is not None


def test_limits_are_per_attention_rank(catalogue: Catalogue) -> None:
    """A worker of eight attention ranks takes eight times a rank's tokens and sequences."""
    row = {**RUN, "model": "DeepSeek-R1", "gpu": "B200", "decode_parallel": "DEP8"}
    one = serving.case_of(RUN, catalogue).deployment.pools[0].batching
    eight = serving.case_of(row, catalogue).deployment.pools[0].batching
    assert eight.max_num_batched_tokens == 8 * one.max_num_batched_tokens
    assert eight.max_num_seqs == 8 * one.max_num_seqs


RECIPE_RUN = {
    **RUN,
    "source": "ai-dynamo/aiconfigurator silicon_sample.csv",
    "engine": "trtllm",
    "model": "DeepSeek-R1",
    "precision": "fp8",
    "gpu": "GB200",
    "mode": "disagg",
    "prefill_parallel": "1x[ADP8 EP8]",
    "decode_parallel": "3x[TP8 EP8]",
    "isl": "8192",
    "osl": "1024",
    "concurrency_or_rate": "18",
    "ttft_ms": "",
    "tpot_ms": "",
}
"""Six clients for each decode worker, whose recipe has four seats."""


LAUNCHED = {
    "source": "silicon_sample.csv",
    "model": "DeepSeek-R1",
    "precision": "fp4",
    "engine": "sglang 0.5.9",
    "gpu": "B200",
    "mode": "agg",
    "prefill_parallel": "TP8",
    "decode_parallel": "TP8",
    "isl": "1024",
    "osl": "1024",
    "concurrency_or_rate": "16",
    "ttft_ms": "",
    "tpot_ms": "",
}
"""A co-located run whose script is public."""


def launched(catalogue: Catalogue, **change: str) -> Batching:
    """Return how the worker of such a run batches."""
    (pool,) = serving.case_of(LAUNCHED | change, catalogue).deployment.pools
    return pool.batching


@pytest.mark.parametrize(
    ("change", "interval", "tokens", "seqs"),
    [
        ({}, 30, 16384, 256),
        ({"concurrency_or_rate": "15"}, 10, 16384, 256),
        ({"precision": "fp8"}, 30, 32768, 128),
        ({"precision": "fp8", "decode_parallel": "TP4"}, 10, 8192, 32),
        ({"precision": "fp8", "gpu": "H200"}, 1, 32768, 512),
        ({"precision": "fp8", "gpu": "H200", "osl": "8192"}, 1, 32768, 256),
        ({"model": "Qwen3.5-397B-A17B", "concurrency_or_rate": "200"}, 30, 32768, 200),
        (
            {"model": "Qwen3.5-397B-A17B", "precision": "fp8", "gpu": "B300"},
            10,
            16384,
            16,
        ),
        ({"source": "another"}, 1, serving.STEP_TOKENS, serving.SEQS),
        ({"engine": "vllm 0.19.0"}, 1, serving.STEP_TOKENS, serving.SEQS),
    ],
)
def test_sglang_is_launched_as_its_script_says(
    change: dict[str, str], interval: int, tokens: int, seqs: int, catalogue: Catalogue
) -> None:
    """By model, precision, GPU and clients; what no script speaks of has the defaults."""
    batching = launched(catalogue, **change)
    got = batching.scheduler_recv_interval, batching.max_num_batched_tokens, batching.max_num_seqs
    assert got == (interval, tokens, seqs)


@pytest.mark.parametrize(
    ("change", "tokens", "iters"),
    [
        ({"engine": "trtllm"}, 1152, 0),
        ({"engine": "trtllm", "concurrency_or_rate": "256"}, 1344, 0),
        ({"engine": "trtllm 1.1.0rc2.post2", "isl": "8192"}, 8320, 0),
        ({"engine": "trtllm 1.2.0rc6.post2"}, 8192, 0),
        ({"engine": "trtllm 1.2.0rc6.post2", "concurrency_or_rate": "64"}, 8192, 40),
        (
            {
                "engine": "trtllm 1.2.0rc6.post2",
                "concurrency_or_rate": "64",
                "decode_parallel": "ADP8 EP8",
            },
            8 * 8192,
            0,
        ),
        ({"engine": "trtllm 1.1.0rc2.post2", "gpu": "H200"}, 1152, 0),
    ],
)
def test_trtllm_is_launched_as_its_script_says(
    change: dict[str, str], tokens: int, iters: int, catalogue: Catalogue
) -> None:
    """Whole prompts, one beside the decodes before 1.2, 8,192 tokens since, and 1k/1k waits."""
    batching = launched(catalogue, **{"precision": "fp8", **change})
    assert not batching.chunked_prefill
    assert (batching.max_num_batched_tokens, batching.batch_wait_timeout_iters) == (tokens, iters)
    ranks = change.get("decode_parallel", "").startswith("ADP")
    assert batching.attention_dp_timeout_iters == (60 if ranks else 0)


@pytest.mark.parametrize(
    ("engine", "weights", "osl", "clients", "layout", "expected"),
    [
        ("trtllm 1.2.0rc6.post2", "fp4", "1024", "256", "ADP8 EP8", "cutlass"),
        ("trtllm 1.2.0rc6.post2", "fp4", "1024", "256", "TP8", None),
        ("trtllm 1.2.0rc6.post2", "fp8", "1024", "256", "TP8", "trtllm"),
        ("trtllm 1.2.0rc6.post2", "fp8", "8192", "256", "TP8", None),
        ("trtllm 1.2.0rc6.post2", "fp8", "8192", "128", "TP8", "trtllm"),
        ("trtllm 1.1.0rc2.post2", "fp8", "1024", "16", "TP8", None),
        ("trtllm", "fp4", "1024", "256", "ADP8 EP8", None),
    ],
)
def test_experts_are_of_the_backend_of_the_script(
    engine: str,
    weights: str,
    osl: str,
    clients: str,
    layout: str,
    expected: str | None,
    catalogue: Catalogue,
) -> None:
    """Since 1.2 by precision, layout and clients; of earlier runs nobody knows which."""
    row = {**LAUNCHED, "engine": engine, "precision": weights, "osl": osl}
    row |= {"concurrency_or_rate": clients, "decode_parallel": layout, "prefill_parallel": layout}
    latency = serving.case_of(row, catalogue).deployment.latency
    assert isinstance(latency, Roofline)
    assert latency.moe_backend == expected


def test_a_recipes_seats_are_the_decode_workers(catalogue: Catalogue) -> None:
    """They bound the decode batch alone, and only in the run that the recipe is of."""
    case = serving.case_of(RECIPE_RUN, catalogue)
    prefill, decode = (pool.batching.max_num_seqs for pool in case.deployment.pools)
    assert (decode, prefill) == (4, 8 * serving.SEQS)
    assert case.seats == "of a public recipe"
    for change in (
        {"concurrency_or_rate": "19"},
        {"decode_parallel": "4x[TP8 EP8]"},
        {"isl": "1024"},
        {"engine": "sglang"},
        {"gpu": "B200"},
        {"precision": "fp4"},
    ):
        other = serving.case_of({**RECIPE_RUN, **change}, catalogue)
        assert other.deployment.pools[1].batching.max_num_seqs == serving.SEQS
        assert other.seats == "the engine's default"


def test_waiting_for_a_seat_is_part_of_the_first_token(catalogue: Catalogue) -> None:
    """With six clients for four seats a third waits: the first token takes a half of decoding."""
    case = serving.case_of(RECIPE_RUN, catalogue)
    seated = serving.simulate_case(case, seed=1)
    decoding = seated.tpot_s * (0.9 * 1024 - 1)
    assert seated.ttft_s / decoding == pytest.approx(6 / 4 - 1, rel=0.25)


def test_a_recipe_with_fewer_seats_than_were_taken_is_anothers(catalogue: Catalogue) -> None:
    """Little's law: 18 clients that hardly wait decode 18 answers at a time, not 12."""
    held = {"ttft_ms": "5000", "tpot_ms": "9.8"}
    short = {"ttft_ms": "500", "tpot_ms": "9.8"}
    kept = serving.case_of({**RECIPE_RUN, **held}, catalogue)
    dropped = serving.case_of({**RECIPE_RUN, **short}, catalogue)
    assert kept.deployment.pools[1].batching.max_num_seqs == 4
    assert dropped.deployment.pools[1].batching.max_num_seqs == serving.SEQS


def test_offline_overviews_have_their_backend_of_experts(catalogue: Catalogue) -> None:
    """CUTLASS in NVIDIA's overviews alone: scripts of other runs differ by version."""
    row = {
        "model": "Qwen3-235B-A22B",
        "precision": "fp4",
        "gpu": "B200",
        "mode": "agg",
        "prefill_parallel": "DEP4",
        "decode_parallel": "DEP4",
        "isl": "1000",
        "osl": "1000",
        "concurrency_or_rate": "inf (offline max load)",
        "engine": "TensorRT-LLM (pytorch backend)",
        "source": "NVIDIA/TensorRT-LLM docs/source/developer-guide/perf-overview.md",
        "notes": "",
    }
    served = {**row, "concurrency_or_rate": "256", "source": ""}
    found = [serving.case_of(each, catalogue).deployment.latency for each in (row, served)]
    backends = [each.moe_backend for each in found if isinstance(each, Roofline)]
    assert backends == ["cutlass", None]


def test_recipes_name_shipped_gpus_and_do_not_contradict(catalogue: Catalogue) -> None:
    """Every recipe is of a GPU that exists, and no run has two."""
    names = {recipes.key(gpu.name) for gpu in catalogue.gpus.values()}
    seen: set[tuple[object, ...]] = set()
    for each in recipes.RECIPES:
        assert each.gpu in names
        for clients in each.clients:
            layout = each.decode.layout
            key = (each.engine, each.gpu, each.weights, each.tokens, each.prefill_workers)
            run = (*key, each.decode.count, layout.tp, layout.attention_dp, clients)
            assert run not in seen
            seen.add(run)


def test_offline_rows_start_at_once_and_count_every_gpu(catalogue: Catalogue) -> None:
    """Everything is sent at time 0, and the row's figure is per GPU of the whole run."""
    row = {
        **RUN,
        "source": "NVIDIA/TensorRT-LLM docs",
        "concurrency_or_rate": "inf (offline max load)",
        "isl": "2048",
        "osl": "128",
        "tpot_ms": "",
        "ttft_ms": "",
        "gpu": "H100",
        "decode_parallel": "TP2",
        "n_gpus": "2",
    }
    case = serving.case_of(row, catalogue)
    assert case.load.clients is None
    scored = by_set(serving.score_row(row, 0, catalogue))["e2e_throughput"]
    assert scored.measured == pytest.approx(1200.0)
    assert scored.phase == "offline"


def test_drafts_in_the_notes_are_decoded_speculatively(catalogue: Catalogue) -> None:
    """``MTP=2, acceptance length 2.58`` yields 2.58 tokens a step; ``MTP=0`` and no MTP none."""

    def drafts(notes: str) -> float:
        latency: Any = serving.case_of({**RUN, "notes": notes}, catalogue).deployment.latency
        return 1.0 if latency.speculative is None else latency.speculative.tokens_per_step

    assert drafts("MTP=2, acceptance length 2.58; MTP table") == pytest.approx(2.58, abs=0.01)
    assert drafts("MTP=0, acceptance length 1.0; final with MTP3") == 1.0
    assert drafts("no MTP; non-MTP") == 1.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "RTX 3090"}, "GPU not shipped"),
        ({"model": "Unheard-1B"}, "model not shipped"),
        ({"precision": "?"}, "precision not known"),
        ({"mode": "both"}, "mode not known"),
        ({"decode_parallel": "", "prefill_parallel": ""}, "layout not given"),
        ({"isl": "ShareGPT"}, "not a number of tokens"),
        ({"concurrency_or_rate": ""}, "concurrency not given"),
        ({"concurrency_or_rate": "server"}, "load not modelled"),
        ({"model": "Llama-3.1-405B"}, "does not fit"),
        ({"decode_parallel": "TP3"}, "layout refused"),
        ({"isl": "900000"}, "longer than"),
    ],
)
def test_rows_without_a_counterpart_are_skipped_with_the_reason(
    catalogue: Catalogue, changes: dict[str, str], reason: str
) -> None:
    """No row vanishes: each of its measured figures is there with why it is not predicted."""
    scored = serving.score_row({**RUN, **changes}, 0, catalogue)
    assert {row.set for row in scored} == {"e2e_agg_tpot", "e2e_throughput", "e2e_ttft"}
    assert all(reason in row.reason and row.error_pct is None for row in scored)


def test_a_bound_is_no_measurement(catalogue: Catalogue) -> None:
    """``<70 SLA`` and an empty cell are skipped for what they are."""
    scored = by_set(serving.score_row({**RUN, "tpot_ms": "<70 SLA", "ttft_ms": ""}, 0, catalogue))
    assert scored["e2e_agg_tpot"].reason == "tpot_ms is only a bound"
    assert scored["e2e_ttft"].reason == "no ttft_ms measured"
    assert scored["e2e_throughput"].error_pct is not None


class Elsewhere:
    """Step times of another package, which has tables for one engine only."""

    def __init__(self, *, engine: str) -> None:
        self.engine = engine

    def bind(self, worker: WorkerSpec) -> StepModel:
        """Return the roofline's, or fail as other people's code may."""
        if self.engine != "trtllm":
            raise RuntimeError("no such table")
        return Roofline(engine="trtllm").bind(worker)


def test_another_package_beside_ours_is_scored_apart(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sets have their own names, and what it raises is a reason, not the end."""
    monkeypatch.setattr(serving, "Silicon", Elsewhere)
    rows = [(0, RUN), (1, {**RUN, "engine": "vllm"})]
    ours = [row for row in serving.score_serving(rows, catalogue) if row.row == "r1"]
    theirs = serving.score_serving(rows, catalogue, silicon=True)
    assert {row.set for row in theirs} == {f"silicon_{row.set}" for row in ours}
    assert [row.predicted for row in theirs[:3]] == [row.predicted for row in ours[:3]]
    assert {row.reason for row in theirs[3:]} == {"aiconfigurator-core: RuntimeError"}
    text = page.markdown(score.summary([*ours, *theirs]), [*ours, *theirs], [])
    assert "Beside aiconfigurator-core" in text


# --- vLLM runs ------------------------------------------------------------------------------


def test_a_gauge_that_is_no_number_is_named(tmp_path: Path) -> None:
    """A bad cell of a run's gauges costs one sentence with file, row, column and value."""
    folder = run_folder(tmp_path)
    gauges = "t,running,waiting\n1.0,2,0\n2.0,many,0\n"
    (folder / "H100_tiny__timeseries.csv").write_text(gauges)
    with pytest.raises(ConfigError, match=r"H100_tiny__timeseries\.csv, row 2: running .*'many'"):
        replay.read_runs(folder)


def test_a_run_says_whether_its_cards_read_each_other(tmp_path: Path, catalogue: Catalogue) -> None:
    """Cards on PCIe without P2P meet in host memory, GPUs with NVLink never do."""
    (measured,) = replay.read_runs(run_folder(tmp_path))
    told = [
        replace(measured, meta={**measured.meta, "gpu": gpu, "p2p": p2p})
        for gpu in ("RTX PRO 6000", "H100")
        for p2p in (True, False)
    ]
    names = [replay.deployment_of(each, catalogue).fabric.name for each in told]
    assert names == ["pcie_box", "pcie_box_no_p2p", "hgx8", "hgx8"]
    odd = replace(measured, meta={**measured.meta, "p2p": "off"})
    with pytest.raises(ConfigError, match="p2p must be true or false but is 'off'"):
        replay.deployment_of(odd, catalogue)


def test_a_run_is_replayed_with_its_own_arrivals(tmp_path: Path, catalogue: Catalogue) -> None:
    """``queued_ts`` is the arrival; the other clock of ``arrival_time`` changes nothing."""
    (one,) = replay.read_runs(run_folder(tmp_path / "a"))
    (other,) = replay.read_runs(run_folder(tmp_path / "b", arrival_time=5.0))
    assert one.arrival == pytest.approx(0.1 * np.arange(6))
    rows, _ = replay.score_run(one, catalogue)
    again, _ = replay.score_run(other, catalogue)
    assert rows == again
    found = by_set(rows)
    assert found["vllm_ttft_mean"].measured == pytest.approx(0.05)
    assert found["vllm_tpot_mean"].measured == pytest.approx(0.2 / 19)
    assert found["vllm_e2e_mean"].measured == pytest.approx(0.25)
    assert all(row.error_pct is not None for row in rows)


def test_a_stated_number_of_blocks_is_used(tmp_path: Path, catalogue: Catalogue) -> None:
    """KV blocks given anywhere in the description override the memory model's, per rank."""
    (measured,) = replay.read_runs(run_folder(tmp_path))
    stated = replace(measured, meta={**META, "resolved": {"num_gpu_blocks": 2588}})
    (pool,) = replay.deployment_of(stated, catalogue).pools
    assert pool.batching.kv_blocks == 2588
    (planned,) = replay.deployment_of(measured, catalogue).pools
    assert planned.batching.kv_blocks != 2588


# --- the command ----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One good file of each kind."""
    return {
        "steps": table(tmp_path / "steps.csv", [STEP, {**STEP, "batch": "32"}]),
        "e2e": table(tmp_path / "e2e.csv", [RUN, {**RUN, "gpu": "RTX 3090"}]),
        "vllm": run_folder(tmp_path / "vllm"),
        "out": tmp_path / "out",
    }


def arguments(files: Mapping[str, Path], *more: str) -> list[str]:
    """Return the command's arguments for these files."""
    given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    return [*given, "--jobs", "1", *more]


def test_errors_json_has_every_set(files: dict[str, Path]) -> None:
    """Every set has its figures as a whole and by model, GPU, precision and phase."""
    assert main(arguments(files)) == 0
    found = json.loads((files["out"] / "errors.json").read_text())
    for name in score.SETS:
        assert set(found[name]) == {
            "rows",
            "skipped",
            "median_abs_pct",
            "p90_abs_pct",
            "bias_pct",
            "by",
        }
        assert {"model", "gpu", "precision", "phase"} <= set(found[name]["by"])
        parts = found[name]["by"]["gpu"].values()
        assert sum(part["rows"] for part in parts) == found[name]["rows"]
    assert (found["steps"]["rows"], found["vllm_e2e_mean"]["rows"]) == (2, 1)
    assert found["e2e_agg_tpot"]["skipped"] == {"GPU not shipped: RTX 3090": 1}
    rows = pl.read_parquet(files["out"] / "rows.parquet")
    assert rows.filter(pl.col("set") == "e2e_agg_tpot").height == 2


def test_inputs_that_are_not_there_by_default_are_left_out(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One named table is enough; with none at all there is nothing to do."""
    nowhere = tuple(files["out"].parent / "nowhere" / name for name in ("a", "b", "c"))
    monkeypatch.setattr(command, "DEFAULTS", nowhere)
    named = {name: files[name] for name in ("steps", "out")}
    assert main(arguments(named)) == 0
    assert capsys.readouterr().err.count("is left out") == 2
    assert json.loads((files["out"] / "errors.json").read_text())["steps"]["rows"] == 2
    assert main(arguments({"out": files["out"]})) == 2
    assert "give --steps, --e2e or --vllm" in capsys.readouterr().err


def test_processes_change_no_figure(files: dict[str, Path]) -> None:
    """One process and two write the same bytes."""
    table(files["e2e"], [{**RUN, "id": str(n), "osl": str(16 + n)} for n in range(20)])
    written = []
    for jobs in ("1", "2"):
        out = files["out"] / jobs
        assert main([*arguments({**files, "out": out}, "--only", "e2e"), "--jobs", jobs]) == 0
        written.append((out / "errors.json").read_bytes())
    assert written[0] == written[1]


def broken(files: dict[str, Path]) -> Iterator[tuple[str, list[str], str]]:
    """Yield what is wrong, arguments for it, and words its sentence must have."""
    folder = files["out"].parent
    yield "no file", arguments({**files, "steps": folder / "none.csv"}), "there is no file"
    yield "a folder", arguments({**files, "e2e": folder}), "is a folder"
    less = {name: value for name, value in RUN.items() if name != "tpot_ms"}
    lacking = table(folder / "less.csv", [less])
    yield "no column", arguments({**files, "e2e": lacking}), "has no column tpot_ms"
    (folder / "empty.csv").write_bytes(b"")
    yield "empty", arguments({**files, "steps": folder / "empty.csv"}), "is empty"
    (folder / "head.csv").write_text(",".join(STEP) + "\n")
    yield "no rows", arguments({**files, "steps": folder / "head.csv"}), "no rows"
    (folder / "noise.csv").write_bytes(bytes(range(256)) * 40)
    yield "noise", arguments({**files, "steps": folder / "noise.csv"}), "noise.csv"
    (folder / "void").mkdir()
    yield "no runs", arguments({**files, "vllm": folder / "void"}), "has no run"
    lame = run_folder(folder / "lame", queued_ts="")
    yield "no stamp", arguments({**files, "vllm": lame}), "line 3: queued_ts"
    wrong = run_folder(folder / "wrong", output_toks="many")
    yield "no number", arguments({**files, "vllm": wrong}), "output_toks must be a number"
    cut = run_folder(folder / "cut")
    (cut / "H100_tiny__meta.json").write_text('{"model": ')
    yield "cut off", arguments({**files, "vllm": cut}), "not readable as JSON"


def test_bad_input_is_one_sentence_and_exit_code_2(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every broken file is named in one line, and nothing is written that looks complete."""
    for what, given, words in broken(files):
        assert main(given) == 2, what
        said = capsys.readouterr().err.strip()
        assert words in said, what
        assert said.startswith("validate: "), what
        assert len(said.splitlines()) == 1, what
    assert not (files["out"] / "errors.json").exists()


def test_an_absent_package_is_said_before_anything_runs(
    files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``--silicon`` without the package names what to install."""
    monkeypatch.setitem(sys.modules, "aiconfigurator_core.sdk.engine", None)
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", None)
    assert main(arguments(files, "--silicon")) == 2
    assert "aiconfigurator-core" in capsys.readouterr().err
    assert not files["out"].exists()


def test_public_figures_are_runs_that_the_catalogue_knows(catalogue: Catalogue) -> None:
    """Each maps to a deployment of as many GPUs as its layout, and to none of the measured rows."""
    rows = figures.public_rows()
    assert len(rows) >= 20
    assert len({row["id"] for row in rows}) == len(rows)
    names = {
        (r["source"], r["model"], r["gpu"], r["decode_parallel"], r["isl"], r["osl"]) for r in rows
    }
    assert len(names) == len(rows)
    for row in rows:
        case = serving.case_of(row, catalogue)
        assert case.gpus == sum(p.workers * p.layout.gpus for p in case.deployment.pools)
        assert case.load.clients is None


@needs_data
def test_public_figures_are_not_among_the_measured_rows() -> None:
    """No measured run has the same model, GPU, layout and version of the overview."""
    with (DATA / "measured_e2e.csv").open(encoding="utf-8") as file:
        measured = {
            (row["source"], row["model"], row["gpu"], row["decode_parallel"])
            for row in csv.DictReader(file)
        }
    for row in figures.public_rows():
        assert (row["source"], row["model"], row["gpu"], row["decode_parallel"]) not in measured


def test_a_public_figure_is_scored_in_its_own_set(catalogue: Catalogue) -> None:
    """Total output tokens/s of the deployment are compared, and nothing else of the row."""
    row = next(row for row in figures.public_rows() if row["gpu"] == "RTXPRO6000")
    (scored,) = serving.score_public([(0, row)], catalogue)
    assert scored.set == "public_throughput"
    assert scored.measured == pytest.approx(18644)
    assert scored.predicted is not None


# --- the report -----------------------------------------------------------------------------


def test_the_report_tells_held_from_missed() -> None:
    """A set within its target is held, one beyond it is missed and says why."""
    rows = [
        Scored(set="e2e_disagg_tpot", row="0", measured=1.0, predicted=1.05),
        Scored(set="e2e_throughput", row="0", measured=1.0, predicted=1.5),
    ]
    summary = score.summary(rows)
    assert page.verdict("e2e_disagg_tpot", summary["e2e_disagg_tpot"]) == "held"
    assert page.verdict("e2e_throughput", summary["e2e_throughput"]) == "missed"
    text = page.markdown(summary, rows, [])
    assert page.TARGETS["e2e_throughput"].missed in text
    assert page.TARGETS["e2e_agg_tpot"].missed not in text


def test_the_band_is_what_three_of_four_rows_keep() -> None:
    """It follows from the errors, in steps of five percent, and never vanishes."""
    for errors, width in (((1, 2, 14, 40), 25.0), ((1, 2, 3, 4), 5.0), ((8, 9, 14, 14), 15.0)):
        rows = [
            Scored(set="e2e_disagg_tpot", row=str(n), measured=1.0, predicted=1.0 + each / 100)
            for n, each in enumerate(errors)
        ]
        assert page.band(rows) == width
    assert page.band([]) is None


def test_the_published_band_is_the_one_that_docs_name() -> None:
    """docs/compare.md repeats with the band that docs/validation.md derives."""
    docs = Path(__file__).parent.parent / "docs"
    published = re.search(r"`(band=\[[^]]*\])`", (docs / "validation.md").read_text("utf-8"))
    assert published is not None
    assert published[1] in (docs / "compare.md").read_text("utf-8")


def test_a_far_off_group_is_listed() -> None:
    """The report names the runs that make the tail, and gives figures without one experiment."""
    common = {"set": "e2e_agg_tpot", "model": "M", "gpu": "G", "engine": "E"}
    near = [
        Scored(**common, row=f"a{n}", source="A", measured=1.0, predicted=1.1) for n in range(5)
    ]
    far = [
        Scored(**common, row=f"b{n}", source=page.EXPERIMENT, measured=1.0, predicted=2.0)
        for n in range(5)
    ]
    text = page.markdown(score.summary([*near, *far]), [*near, *far], [])
    assert f"| M |  | G | E | {page.EXPERIMENT} | 5 | 100.0 % | 100.0 % | 100.0 % |" in text
    assert "| M |  | G | E | A |" not in text
    assert "| TPOT, co-located | 5 | 10.0 % | 10.0 % | 10.0 % |" in text


def test_plots_are_well_formed(tmp_path: Path, catalogue: Catalogue) -> None:
    """Every plot is an SVG document, also of nothing and of names with special characters."""
    rows = [
        Scored(set="steps", row="0", gpu="A<&>", measured=0.001, predicted=0.002),
        Scored(set="steps", row="1", gpu="A<&>", reason="no GPU"),
    ]
    (measured,) = replay.read_runs(run_folder(tmp_path))
    _, replayed = replay.score_run(measured, catalogue)
    assert replayed is not None
    drawings = [plots.step_plot(rows), plots.tpot_plot([]), plots.queue_plot(replayed)]
    for drawing in drawings:
        assert ET.fromstring(drawing).tag.endswith("svg")  # noqa: S314 - our own text


@needs_data
def test_measured_tables_are_mapped(tmp_path: Path) -> None:
    """A thin sample of the real tables is read whole, and most of it finds its counterpart."""
    given = {"steps": DATA / "step_latencies.csv", "e2e": DATA / "measured_e2e.csv"}
    files = {**given, "vllm": DATA / "vllm_runs", "out": tmp_path}
    assert main(arguments(files, "--limit", "60")) == 0
    found = json.loads((tmp_path / "errors.json").read_text())
    assert not found["steps"]["skipped"]
    assert found["e2e_throughput"]["rows"] > 40
    assert found["vllm_e2e_mean"]["rows"] == 2
    assert found["steps"]["median_abs_pct"] < 25
    assert found["e2e_agg_tpot"]["median_abs_pct"] < 50
