"""Fitting: rows, curves of single kernels, whole steps, rows left out, and bad tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from simulator.calibration import report
from simulator.calibration.__main__ import main
from simulator.calibration.collectives import bare, fit_collectives
from simulator.calibration.curves import (
    COUNT,
    PRIORS,
    Key,
    bounds,
    curve_of,
    logs_of,
    on_bound,
    started,
)
from simulator.calibration.fit import Fitted, Flat, fit_kernels, softened, unprejudiced
from simulator.calibration.kernel_rows import NUMBERS, alone, fit_alone, read_kernels, rows_of
from simulator.calibration.kernel_tables import (
    decode_mla,
    experts,
    families,
    gemm,
    prefill_attention,
    quantise,
    recurrence,
    scaling,
    spared,
    tuned,
)
from simulator.calibration.sources import ARCHITECTURES, MODELS, gpu_of, groups, read
from simulator.errors import ConfigError
from simulator.latency.collectives import CUSTOM, MULTICAST
from simulator.latency.efficiency import load

ROOT = Path(__file__).parents[3]
STEPS = ROOT.parent / "shared/data/step_latencies.csv"


NEEDS_STEPS = pytest.mark.skipif(
    not STEPS.is_file(), reason=f"measured step latencies are not at {STEPS}"
)


@NEEDS_STEPS
def test_step_latencies_are_accurate() -> None:
    """Against composed silicon measurements the median error is small, for every model and GPU."""
    errors = report.errors_of(
        read([STEPS]), {name: load(name) for name in ("ampere", "blackwell", "hopper")}
    )
    assert len(errors) > 2000
    absolute = errors.with_columns(absolute=pl.col("error").abs())
    assert absolute["absolute"].median() < 0.06
    for by, bound in (("model", 0.15), ("system", 0.08), ("phase", 0.06)):
        worst = absolute.group_by(by).agg(pl.col("absolute").median())["absolute"].max()
        assert worst < bound, by


@NEEDS_STEPS
def test_shipped_collectives_are_what_their_tables_give() -> None:
    """Fitted anew, those of Blackwell are the shipped ones, the multicast of its racks too."""
    systems = ARCHITECTURES["blackwell"]
    fitted, errors = fit_collectives(STEPS.parent, systems)
    shipped = load("blackwell").collectives
    assert set(MULTICAST) <= set(fitted) <= set(shipped)
    for name, curve in fitted.items():
        assert curve.alpha_s == pytest.approx(shipped[name].alpha_s, rel=0.01), name
        assert curve.reached(8) == pytest.approx(shipped[name].reached(8), rel=0.01), name
    assert errors["all_reduce_multicast"] < 0.05
    assert not set(MULTICAST) & set(fit_collectives(STEPS.parent, ("h100_sxm",))[0])


@NEEDS_STEPS
def test_the_slopes_of_a_fit_are_those_of_its_seconds() -> None:
    """Every analytic derivative agrees with a finite difference, on dense and MoE rows."""
    steps = read([STEPS]).filter(
        pl.col("system").is_in(["h100_sxm"]) & (pl.col("batch") >= 8) & (pl.col("tp") != 2)
    )
    flat = Flat()
    collectives, _ = fit_collectives(STEPS.parent, ("h100_sxm",))
    for group in list(groups(steps, ("h100_sxm",)))[::4]:
        flat.add(group, bare(collectives))
    fields = flat.fields()
    rng = np.random.default_rng(3)
    count = COUNT * len(flat.keys)
    each = np.array([0.5, 0.7, 5.0, 20.0, 50.0, 0.2, 300.0])
    x = np.append(np.log(np.tile(each, count // COUNT)), np.log([50.0, 0.2, 1.5]))
    x += rng.normal(0.0, 0.2, len(x))
    slopes, step = fields.slopes(x), 1e-6
    for index in [*range(COUNT), *range(count - COUNT, count + 3)]:
        shifted = np.zeros_like(x)
        shifted[index] = step
        measured = (fields.seconds(x + shifted) - fields.seconds(x - shifted)) / (2 * step)
        assert np.allclose(slopes[:, index], measured, rtol=1e-4, atol=1e-8), index


@NEEDS_STEPS
def test_left_out_rows_are_judged_by_a_fit_that_never_saw_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fit without a model, or without a GPU, sees no row of it, and judges all of them."""
    steps = read([STEPS])
    seen: list[pl.DataFrame] = []

    def recorded(data: Path, kept: pl.DataFrame, kernels: object) -> Any:
        assert data == STEPS.parent
        assert kernels is None
        seen.append(kept)
        names = set(kept["system"])
        return {
            a: Fitted(efficiency=load(a), collective_errors={}, alone={})
            for a, own in ARCHITECTURES.items()
            if names & set(own)
        }

    monkeypatch.setattr(report, "fit_all", recorded)
    for by in ("model", "system"):
        seen.clear()
        scored = report.left_out(STEPS.parent, steps, steps, by)
        assert len(scored) == len(steps)
        alike = dict(MODELS) if by == "model" else {}
        names = steps[by].replace(alike).unique(maintain_order=True).to_list()
        assert all(
            name not in set(kept[by].replace(alike)) for name, kept in zip(names, seen, strict=True)
        )
    figures = report.figures(scored)
    assert figures["all"][0]["rows"] == len(steps)
    assert {row["system"] for row in figures["system phase"]} == set(steps["system"])
    assert json.loads(json.dumps(figures)) == figures


STEP = {
    "model": "Qwen/Qwen3-32B",
    "system": "l40s",
    "backend": "vllm",
    "gemm": "fp8",
    "moe": "fp8",
    "kvcache": "fp8",
    "phase": "decode",
    "tp": "2",
    "pp": "1",
    "dp": "1",
    "moe_tp": "1",
    "moe_ep": "1",
    "batch": "8",
    "isl": "",
    "context": "1024",
    "latency_ms": "5.0",
}


def table(path: Path, *changes: dict[str, str]) -> Path:
    """Write a table of steps, one row per change to a good one."""
    pl.DataFrame([{**STEP, **change} for change in changes]).write_csv(path)
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "somebody/Else"}, "model is not known here"),
        ({"system": "tpu"}, "system is not known here"),
        ({"gemm": "int3"}, "gemm is not known here"),
        ({"kvcache": "int3"}, "kvcache is not known here"),
        ({"phase": "mixed"}, "phase is neither prefill nor decode"),
        ({"phase": ""}, "phase is neither prefill nor decode"),
        ({"latency_ms": "-1"}, "latency_ms is not above 0"),
        ({"latency_ms": ""}, "latency_ms is not above 0"),
        ({"batch": ""}, "batch, isl, context is not at least 1"),
        ({"phase": "prefill", "isl": ""}, "batch, isl, context is not at least 1"),
        ({"tp": "4"}, "badly connected"),
    ],
)
def test_rows_left_out_are_counted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    reason: str,
) -> None:
    """A row that cannot be fitted to is left out, and a line says how many there are, and why."""
    kept = read([table(tmp_path / "steps.csv", {}, change, change)])
    assert len(kept) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("calibrate: 2 of 3 rows left out: ")
    assert reason in line


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batch": "many"}, "row 2: batch must be a whole number but is 'many'"),
        ({"isl": "12.5"}, "row 2: isl must be a whole number but is '12.5'"),
        ({"latency_ms": "nan"}, "row 2: latency_ms must be a number but is 'nan'"),
    ],
)
def test_a_cell_that_is_no_number_is_named(
    tmp_path: Path, change: dict[str, str], told: str
) -> None:
    """The sentence names the file, the row, the column and what is in it."""
    with pytest.raises(ConfigError, match=r"steps\.csv") as error:
        read([table(tmp_path / "steps.csv", {}, change)])
    assert told in str(error.value)


def test_a_table_without_a_row_to_fit_to_is_refused(tmp_path: Path) -> None:
    """Nothing is fitted to nothing."""
    with pytest.raises(ConfigError, match="no row of"):
        read([table(tmp_path / "steps.csv", {"model": "somebody/Else"})])


# --- single kernels -------------------------------------------------------------------------

TRUE = np.log(np.array([0.6, 0.7, 4.0, 20.0, 30.0, 0.2, 900.0]))


def products(count: int = 240) -> pl.DataFrame:
    """Return shapes of dense products on an H100, without seconds."""
    rng = np.random.default_rng(5)
    m, n, k = (2.0 ** rng.integers(low, high, count) for low, high in ((0, 14), (9, 15), (9, 15)))
    table = pl.DataFrame({"m": m, "n": n, "k": k, "gemm_dtype": ["fp8"] * count})
    rows = gemm(table).with_columns(system=pl.lit("h100_sxm"), engine=pl.lit(""))
    return rows.with_columns(seconds=pl.lit(1.0))


def test_a_curve_is_found_again_from_its_own_kernels() -> None:
    """Rows that a curve made give its seconds back, on shapes held out too, to a percent."""
    key, table = Key("gemm", "fp8", ""), products()
    seconds = rows_of(key, table).predicted(TRUE)
    made = table.with_columns(seconds=pl.Series(seconds))
    found = fit_alone(made, "hopper")[key]
    assert found.rows == len(table)
    assert found.error < 0.01
    assert found.held_out < 0.01
    assert np.allclose(found.x[:3], TRUE[:3], atol=0.05)


def test_slopes_of_a_kernel_are_those_of_its_seconds() -> None:
    """Every derivative agrees with a finite difference."""
    rows, step = rows_of(Key("gemm", "fp8", ""), products(60)), 1e-6
    for index in range(COUNT):
        shifted = np.zeros(COUNT)
        shifted[index] = step
        measured = (rows.predicted(TRUE + shifted) - rows.predicted(TRUE - shifted)) / (2 * step)
        assert np.allclose(rows.slopes(TRUE)[:, index], measured, rtol=1e-4, atol=1e-12), index


def test_a_curve_says_when_only_its_bound_holds_it() -> None:
    """Rows faster than any kernel of the kind leave the curve on the bound, and it is named."""
    key, table = Key("gemm", "fp8", ""), products()
    rows = rows_of(key, table)
    fast = table.with_columns(seconds=pl.Series(0.5 * np.maximum(rows.compute, rows.memory)))
    curve = curve_of("gemm", alone(key, rows_of(key, fast), held_out=False).x)
    assert {"compute", "memory"} <= set(on_bound("gemm", curve))
    for kind in PRIORS:
        low, high = bounds(kind)
        assert (low < started(kind)).all()
        assert (started(kind) < high).all()
        assert not on_bound(kind, curve_of(kind, started(kind)))


def test_outliers_lose_weight_and_near_rows_do_not() -> None:
    """The loss is a square near zero and grows by the distance far away, with its own slope."""
    error = np.array([-3.0, -0.2, 0.0, 1e-3, 0.2, 3.0])
    soft, slope = softened(error)
    step = 1e-6
    measured = (softened(error + step)[0] - softened(error - step)[0]) / (2 * step)
    assert np.allclose(slope, measured, rtol=1e-4)
    assert soft[3] == pytest.approx(error[3], rel=1e-3)
    assert soft[5] ** 2 == pytest.approx(2 * 0.1 * 3.0, rel=0.05)
    assert np.allclose(logs_of(curve_of("gemm", TRUE)), TRUE, atol=1e-3)


@NEEDS_STEPS
def test_steps_move_a_curve_only_as_far_as_its_kernels_let_them() -> None:
    """Held by nothing a curve follows the steps; held by kernel rows it stays where they are."""
    steps = read([STEPS]).filter(
        (pl.col("system") == "h100_sxm") & (pl.col("model") == "meta-llama/Meta-Llama-3.1-8B")
    )
    collectives, _ = fit_collectives(STEPS.parent, ("h100_sxm",))
    flat = Flat()
    for group in list(groups(steps, ("h100_sxm",)))[:2]:
        flat.add(group, bare(collectives))
    fields, key = flat.fields(), next(key for key in flat.keys if key.kind == "gemm")
    slow = np.log(np.array([0.1, 0.1, 3.0, 30.0, 30.0, 0.2, 1.0]))
    reached = []
    for weight in (0.01, 100.0):
        pulls = {each: (started(each.kind), 0.3 * np.eye(COUNT)) for each in flat.keys}
        pulls[key] = (slow, weight * np.eye(COUNT))
        curves, _, _ = fit_kernels(fields, pulls)
        reached.append(curves[key].memory)
    assert reached[0] > 0.3
    assert reached[1] == pytest.approx(0.1, rel=0.02)


# --- public tables --------------------------------------------------------------------------


def test_public_tables_become_calls_of_our_operators() -> None:
    """FLOPs and bytes of one call of each kind, counted by hand."""
    (product,) = products(1).to_dicts()
    m, n, k = (products(1)[name].item() for name in "mnk")
    assert product["flops"] == 2 * m * n * k
    assert product["bytes"] == n * k + m * (k + 2 * n)
    heads = {"batch_size": 2, "num_heads": 8, "num_key_value_heads": 2, "head_dim": 128}
    common = {"attn_dtype": "fp8", "kv_cache_dtype": "fp8", "window_size": 0}
    (prompt,) = prefill_attention(
        pl.DataFrame([{**heads, **common, "isl": 64, "step": 0}])
    ).to_dicts()
    assert prompt["flops"] == 2 * 4 * 8 * 128 * (64 * 65 / 2)
    assert prompt["bytes"] == 2 * 64 * (2 * 2 * 128) + 2 * 64 * (2 * 8 * 128) * 2
    mla = {"batch_size": 4, "num_heads": 16, "kv_cache_dtype": "bfloat16", "step": 1023}
    (decode,) = decode_mla(pl.DataFrame([mla])).to_dicts()
    assert decode["flops"] == 2 * 16 * (576 + 512) * 4 * 1024
    assert decode["bytes"] == 576 * 2 * 4096 + 16 * 1088 * 2 * 4
    routed = {
        "moe_dtype": "fp8_block",
        "hidden_size": 7168,
        "inter_size": 2048,
        "topk": 8,
        "num_experts": 256,
        "moe_tp_size": 1,
        "moe_ep_size": 8,
        "num_tokens": 1024,
        "distribution": "power_law_1.01",
        "kernel_source": "",
    }
    (grouped,) = experts(pl.DataFrame([routed])).to_dicts()
    even, all_of_a_rank = 2 * 3 * 7168 * 2048 * 1024, 2 * 3 * 7168 * 2048 * 32
    assert 1.3 < grouped["flops"] / even < 1.8  # the busiest of 8 ranks
    assert 0.8 < grouped["ramp"] / all_of_a_rank <= 1.0
    assert grouped["thin"] == 7168 * 1024  # every token comes to the rank
    balanced = pl.DataFrame([{**routed, "distribution": "balanced"}])
    assert experts(balanced).is_empty()


def test_products_are_spared_the_quantising_measured_with_them() -> None:
    """Both kernels of as many values are taken off; other dtypes and unknown lengths are not."""
    table = pl.DataFrame(
        {
            "m": [8, 8, 16, 8],
            "n": [1024] * 4,
            "k": [512, 2048, 512, 512],
            "gemm_dtype": ["fp8", "fp8", "fp8", "bfloat16"],
            "seconds": [1.5e-5, 1.9e-5, 1.6e-5, 6e-6],
        }
    )
    applied = pl.DataFrame({"m": [8, 8], "k": [512, 2048], "quant_dtype": ["fp8"] * 2})
    applied = applied.with_columns(seconds=pl.Series([1e-6, 2e-6]))
    found = applied.with_columns(seconds=pl.Series([8e-6, 9e-6]))
    left = spared(gemm(table), applied, found).sort("dtype", "k")
    assert left.select("dtype", "k").rows() == [("bf16", 512), ("fp8", 512), ("fp8", 2048)]
    assert left["seconds"].to_list() == pytest.approx([6e-6, 6e-6, 8e-6])
    assert spared(gemm(table))["seconds"].to_list() == pytest.approx([6e-6, 1.5e-5, 1.9e-5, 1.6e-5])
    assert quantise(applied)["bytes"].to_list() == [8 * 512 * 3.0, 8 * 2048 * 3.0]
    assert scaling(found)["bytes"].to_list() == [8 * 512 * 2.0, 8 * 2048 * 2.0]


@NEEDS_STEPS
def test_composed_products_find_their_scales_first() -> None:
    """Steps of TensorRT-LLM's tables are of products measured so, other engines' are not."""
    scales = {
        (group.engine or "trtllm"): group.spec.fp8_scales
        for group in groups(read([STEPS]), ("b200_sxm", "h200_sxm", "h100_sxm"))
    }
    assert scales == {"trtllm": "dynamic", "sglang": "", "vllm": ""}


def test_no_engine_in_particular_has_the_products_most_engines_measured() -> None:
    """One engine's odd start stays its own; the generic kernels get the others' curve."""
    own, shared = (curve_of("gemm", TRUE + shift) for shift in (0.0, 0.1))
    kernels = {"": {"gemm": {"fp8": own, "bf16": own}}, "any": {"gemm": {"fp8": shared}}}
    found = unprejudiced(kernels)
    assert found[""]["gemm"] == {"fp8": shared, "bf16": own}
    assert found["trtllm"] == {"gemm": {"fp8": own}}
    assert "any" not in found


def test_weights_that_were_widened_first_are_no_kernel_of_narrow_ones() -> None:
    """MXFP4 experts by a kernel that reads 16 bits are left out, the same in 16 bits are not."""
    call = {
        "hidden_size": 2880,
        "inter_size": 2880,
        "topk": 4,
        "num_experts": 128,
        "moe_tp_size": 1,
        "moe_ep_size": 1,
        "num_tokens": 32,
        "distribution": "power_law_1.01",
    }
    kinds = [
        ("w4a16_mxfp4", "sglang_fused_moe_triton"),
        ("bfloat16", "sglang_fused_moe_triton"),
        ("w4a16_mxfp4", "sglang_flashinfer_trtllm_moe"),
    ]
    table = pl.DataFrame([{**call, "moe_dtype": d, "kernel_source": k} for d, k in kinds])
    assert experts(table)["dtype"].to_list() == ["bf16", "w4a16"]


SOURCES = ("moe_torch_flow_min_latency", "moe_torch_flow_cutlass", "sglang_flashinfer_trtllm_moe")


@pytest.mark.parametrize(
    ("engine", "system", "dtype", "expected"),
    [
        ("trtllm", "b200_sxm", "nvfp4", {"moe_cutlass": [1], "": [0, 2]}),
        ("trtllm", "rtx_pro_6000_server", "nvfp4", {"": [0, 1, 2]}),
        ("trtllm", "b200_sxm", "fp8", {"": [0, 1, 2]}),
        ("sglang", "b300_sxm", "nvfp4", {"": [2], "sglang": [0, 1, 2]}),
        ("sglang", "b200_sxm", "nvfp4", {"sglang": [0, 1, 2]}),
        ("sglang", "b200_sxm", "fp8_block", {"moe_trtllm": [2], "sglang": [0, 1, 2]}),
    ],
)
def test_experts_are_of_the_backend_that_computed_them(
    engine: str, system: str, dtype: str, expected: dict[str, list[int]]
) -> None:
    """Backends are apart where an engine has to be told to use them, and shared where it is not."""
    rows = [{"kernel_source": name, "dtype": dtype, "at": at} for at, name in enumerate(SOURCES)]
    found = families(pl.DataFrame(rows), engine, system)
    assert {family: own["at"].to_list() for family, own in found} == expected


@pytest.mark.parametrize(
    ("engine", "system", "kept"),
    [
        ("sglang", "b200_sxm", ["sglang_flashinfer_trtllm_moe"]),
        ("sglang", "gb300", ["sglang_flashinfer_trtllm_moe"]),
        ("sglang", "h200_sxm", ["sglang_flashinfer_trtllm_moe", "sglang_fused_moe_triton"]),
    ],
)
def test_sglang_has_the_faster_experts_on_blackwell(
    engine: str, system: str, kept: list[str]
) -> None:
    """Triton's are of models that the others could not compute; elsewhere both are its own."""
    sources = ["sglang_flashinfer_trtllm_moe", "sglang_fused_moe_triton"]
    frame = pl.DataFrame({"kernel_source": sources, "dtype": ["bf16", "bf16"]})
    ((family, own),) = families(frame, engine, system)
    assert (family, own["kernel_source"].to_list()) == ("sglang", kept)


@NEEDS_STEPS
def test_first_custom_all_reduces_meet_their_table() -> None:
    """Among eight B200s 256 KB take two shots, 26 µs; cards without NVLink have none of them."""
    curves, errors = fit_collectives(STEPS.parent, ARCHITECTURES["blackwell"])
    two = curves["all_reduce_custom_two_shot"]
    moved = 2**18 * 2 * 7 / 8 / gpu_of("b200_sxm").scale_up.bandwidth
    start = two.alpha_s + 7 * two.rank_alpha_s
    assert start + moved / two.reached(8) == pytest.approx(25.7e-6, rel=0.05)
    assert max(errors[name] for name in CUSTOM) < 0.05
    assert not set(CUSTOM) & set(fit_collectives(STEPS.parent, ("l40s",))[0])


def test_calls_that_were_not_tuned_are_left_out() -> None:
    """Those of a backend asked for that took far longer on the same GPU of another system."""
    rows = [
        {"num_tokens": 8, "asked": True, "kernel_source": "x", "seconds": 1.0},
        {"num_tokens": 16, "asked": True, "kernel_source": "x", "seconds": 2.0},
        {"num_tokens": 16, "asked": False, "kernel_source": "y", "seconds": 9.0},
        {"num_tokens": 32, "asked": True, "kernel_source": "x", "seconds": 9.0},
    ]
    calls = pl.DataFrame(rows)
    others = pl.DataFrame([{**row, "seconds": 1.0} for row in rows[:3]])
    assert tuned(calls, others)["seconds"].to_list() == [1.0, 9.0, 9.0]
    assert tuned(calls, calls).equals(calls)


def test_composed_steps_of_cutlass_are_no_evidence() -> None:
    """Experts in NVFP4 of more than 128 tokens, of all ranks, are CUTLASS's, and not fitted to."""
    step = {
        "model": "nvidia/DeepSeek-V3.1-NVFP4",
        "system": "b200_sxm",
        "backend": "trtllm",
        "gemm": "nvfp4",
        "moe": "nvfp4",
        "kvcache": "fp8",
        "phase": "decode",
        "isl": None,
        "tp": 1,
        "pp": 1,
        "dp": 8,
        "moe_tp": 1,
        "moe_ep": 8,
        "context": 1024,
        "batch": 16,
        "latency_ms": 20.0,
    }
    rows = [step, {**step, "batch": 17}, {**step, "system": "b300_sxm"}]
    found = [
        (group.system, group.moe_backend)
        for group in groups(pl.DataFrame(rows), ("b200_sxm", "b300_sxm"))
    ]
    assert found == [("b200_sxm", None), ("b200_sxm", "cutlass"), ("b300_sxm", "cutlass")]


def test_a_gated_delta_layer_is_its_convolution_and_its_recurrence() -> None:
    """Both kernels of a call make one row; without one of them there is none."""
    call = {
        "phase": "context",
        "batch_size": 2,
        "seq_len": 64,
        "num_k_heads": 4,
        "num_v_heads": 8,
        "head_k_dim": 128,
        "model_name": "a",
    }
    table = pl.DataFrame(
        [
            {**call, "seconds": 3e-6},
            {**call, "seconds": 4e-5},
            {**call, "phase": "generation", "seq_len": 1, "seconds": 2e-6},
        ]
    )
    (row,) = recurrence(table).to_dicts()
    assert row["kind"] == "prefill_recurrence"
    assert row["seconds"] == pytest.approx(4.3e-5)
    assert row["flops"] == 6 * 8 * 128**2 * 2 * 64
    assert row["bytes"] == 2 * (2 * 4 + 2 * 8) * 128 * 2 * 128 + 2 * 4 * 8 * 128**2 * 2


def test_a_single_shape_holds_out_nothing() -> None:
    """Where there is no other shape to judge by, no error is told."""
    key, table = Key("gemm", "fp8", ""), products(40).with_columns(shape=pl.lit("one"))
    found = alone(key, rows_of(key, table))
    assert "held_out_pct" not in report._alone({key: found})["gemm fp8"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"flops": "many"}, "row 1: flops must be a number but is 'many'"),
        ({"system": "tpu"}, "no GPU is called tpu"),
    ],
)
def test_a_bad_kernel_row_is_named(tmp_path: Path, change: dict[str, str], told: str) -> None:
    """The sentence names the file and what is wrong in it."""
    good = {"system": "l40s", "engine": "", "kind": "gemm", "dtype": "fp8", "shape": "a"}
    numbers = dict.fromkeys(NUMBERS, "1")
    pl.DataFrame([{**good, **numbers, **change}]).write_csv(tmp_path / "kernels.csv")
    with pytest.raises(ConfigError, match=r"kernels\.csv") as error:
        read_kernels(tmp_path / "kernels.csv")
    assert told in str(error.value)


@NEEDS_STEPS
def test_a_fit_is_written_and_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command fits a small table with kernel rows and writes what the product loads."""
    data = STEPS.parent
    steps = pl.read_csv(data / "step_latencies.csv", infer_schema_length=None)
    for name in ("allreduce_latency_us", "nccl_latency_us", "deepep_ll_us", "achieved_gemm"):
        (tmp_path / f"{name}.csv").symlink_to(data / f"{name}.csv")
    steps.filter((pl.col("system") == "a100_sxm") & (pl.col("tp") == 1)).write_csv(
        tmp_path / "step_latencies.csv"
    )
    tables = []
    for system in ("a100_sxm", "gb300"):
        table = products().with_columns(system=pl.lit(system), dtype=pl.lit("bf16"))
        seconds = rows_of(Key("gemm", "bf16", ""), table).predicted(TRUE)
        tables.append(table.with_columns(seconds=pl.Series(seconds)))
    kernels = pl.concat(tables)
    kernels.select("system", "engine", "kind", "dtype", "shape", *NUMBERS).write_csv(
        tmp_path / "kernels.csv"
    )
    arguments = ["--data", str(tmp_path), "--kernels", str(tmp_path / "kernels.csv")]
    assert main([*arguments, "--out", str(tmp_path), "--errors", str(tmp_path / "e.json")]) == 0
    assert "in sample" in capsys.readouterr().out
    raw = yaml.safe_load((tmp_path / "ampere.yaml").read_text())
    assert raw["fit_error"]["kernels"]["gemm bf16"]["rows"] == len(tables[0])
    assert load("ampere", str(tmp_path)).curve("gemm", "bf16").floor_s > 0
    (tmp_path / "blackwell.yaml").write_text(
        (Path(report.__file__).parents[2] / "conf/calibration/blackwell.yaml").read_text()
    )
    successor, parent = (load(n, str(tmp_path)) for n in ("blackwell_ultra", "blackwell"))
    found = successor.curve("gemm", "bf16")
    assert found.compute == pytest.approx(float(np.exp(TRUE[0])), rel=0.1)
    assert successor.curve("decode_mla", "bf16") == parent.curve("decode_mla", "bf16")
    assert json.loads((tmp_path / "e.json").read_text())["in_sample"]["all"][0]["rows"] > 0
    assert main(["--data", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.startswith("calibrate: ")
