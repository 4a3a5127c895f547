"""The shipped calibration: loadable for every GPU, honest about its source, and accurate."""

import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.configuration import build
from simulator.errors import ConfigError
from simulator.latency.efficiency import Curve, known, load
from simulator.latency.roofline import Roofline

ROOT = Path(__file__).parents[3]
STEPS = ROOT.parent / "shared/data/step_latencies.csv"
GPUS = sorted(path.stem for path in (ROOT / "conf/hardware").glob("*.yaml"))
MEASURED = ("ada", "ampere", "blackwell", "blackwell_gddr", "hopper")


@pytest.mark.parametrize("name", GPUS)
def test_every_shipped_gpu_has_an_efficiency(name: str) -> None:
    """Each GPU's architecture is calibrated, or says whose calibration it inherits."""
    gpu = build(yaml.safe_load((ROOT / f"conf/hardware/{name}.yaml").read_text()), GPU, name)
    efficiency = load(gpu.architecture)
    assert efficiency.measured_on
    assert efficiency.source
    assert (efficiency.inherits is None) == (gpu.architecture in MEASURED)


@pytest.mark.parametrize("architecture", MEASURED)
def test_the_file_states_source_and_error(architecture: str) -> None:
    """A fitted file carries where its numbers come from and how well they fit."""
    raw = yaml.safe_load((ROOT / f"conf/calibration/{architecture}.yaml").read_text())
    assert raw["source"]
    assert 0 < raw["fit_error"]["steps"]["median_abs_pct"] < 15


def test_every_latency_choice_is_known() -> None:
    """Each shipped latency YAML names a class, and what has no default is marked mandatory."""
    for path in (ROOT / "conf/latency").glob("*.yaml"):
        node = yaml.safe_load(path.read_text())
        node = {key: "x.csv" if value == "???" else value for key, value in node.items()}
        assert hasattr(build(node, object, "latency"), "bind"), path.name


def test_an_unknown_architecture_lists_the_known() -> None:
    """Someone's own GPU gets the list to choose the nearest from."""
    with pytest.raises(ConfigError, match="hopper") as error:
        load("quantum")
    assert all(name in str(error.value) for name in known())


def test_inheritance_is_logged(spec_from: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A GPU nobody measured says whose efficiency it borrows."""
    gpu = spec_from("hardware", "mi300x", GPU)
    with caplog.at_level("INFO"):
        Roofline().machine(gpu, spec_from("fabric", "hgx8", Fabric))
    assert "MI300X" in caplog.text
    assert "H100 SXM" in caplog.text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[1, 2", "YAML"),
        ("just words", "mapping"),
        ("architecture: mine", "kernels"),
        ("inherits: hopper\nkernels: {gemm: {bf16: {compute: 0.5}}}", "kernels.gemm.bf16"),
        ("inherits: hopper\nkernels: {gemm: {bf16: {compute: fast}}}", "gemm.bf16.compute"),
        ("inherits: hopper\ncollectives: {all_gather: {alpha_us: 1, bandwidth: 2}}", "all_gather"),
        ("inherits: mine", "architecture is missing"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, word: str) -> None:
    """A calibration folder of one's own is checked."""
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "hopper.yaml").write_bytes((ROOT / "conf/calibration/hopper.yaml").read_bytes())
    with pytest.raises(ConfigError, match=r"mine\.yaml") as error:
        Roofline(calibration=str(tmp_path)).machine(_gpu("mine"), _fabric())
    assert word in str(error.value)


def _gpu(architecture: str) -> Any:
    node = yaml.safe_load((ROOT / "conf/hardware/h100_sxm.yaml").read_text())
    return build({**node, "architecture": architecture}, GPU, "gpu")


def _fabric() -> Any:
    return build(yaml.safe_load((ROOT / "conf/fabric/hgx8.yaml").read_text()), Fabric, "fabric")


@pytest.mark.parametrize(
    "values",
    [{"compute": 0.0}, {"compute": 1.2}, {"memory": -1.0}, {"overlap": 2.0}, {"floor_s": -1e-6}],
)
def test_a_curve_is_a_fraction_of_the_data_sheet(values: dict[str, float]) -> None:
    """No kernel is more efficient than the hardware, and none takes negative time."""
    good = {"compute": 0.5, "memory": 0.5, "floor_s": 1e-6}
    with pytest.raises(ConfigError, match=next(iter(values))):
        Curve(**{**good, **values})


@pytest.fixture(scope="module")
def calibrate() -> Iterator[ModuleType]:
    """Import scripts/calibrate, whose rows and errors the accuracy is judged by."""
    loader = importlib.machinery.SourceFileLoader("calibrate", str(ROOT / "scripts/calibrate"))
    spec = importlib.util.spec_from_loader("calibrate", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibrate"] = module
    loader.exec_module(module)
    yield module
    del sys.modules["calibrate"]


@pytest.mark.skipif(not STEPS.is_file(), reason=f"measured step latencies are not at {STEPS}")
def test_step_latencies_are_accurate(calibrate: ModuleType) -> None:
    """Against composed silicon measurements the median error is small, for every model and GPU."""
    errors = calibrate.errors_of(
        calibrate.read([STEPS]), {name: load(name) for name in ("ampere", "blackwell", "hopper")}
    )
    assert len(errors) > 2000
    absolute = errors.with_columns(absolute=pl.col("error").abs())
    assert absolute["absolute"].median() < 0.06
    for by, bound in (("model", 0.15), ("system", 0.08), ("phase", 0.06)):
        worst = absolute.group_by(by).agg(pl.col("absolute").median())["absolute"].max()
        assert worst < bound, by


NEEDS_STEPS = pytest.mark.skipif(
    not STEPS.is_file(), reason=f"measured step latencies are not at {STEPS}"
)


@NEEDS_STEPS
def test_the_slopes_of_a_fit_are_those_of_its_seconds(calibrate: ModuleType) -> None:
    """Every analytic derivative agrees with a finite difference, on dense and MoE rows."""
    steps = calibrate.read([STEPS]).filter(
        pl.col("system").is_in(["h100_sxm"]) & (pl.col("batch") >= 8) & (pl.col("tp") != 2)
    )
    flat = calibrate.Flat()
    collectives, _ = calibrate.fit_collectives(STEPS.parent, ("h100_sxm",))
    for group in list(calibrate.groups(steps, ("h100_sxm",)))[::4]:
        flat.add(group, calibrate.bare(collectives))
    flat.freeze()
    rng = np.random.default_rng(3)
    count = 6 * len(flat.keys)
    each = np.array([0.5, 0.7, 5.0, 20.0, 50.0, 0.2])
    x = np.append(np.log(np.tile(each, count // 6)), np.log([50.0, 0.2, 1.5]))
    x += rng.normal(0.0, 0.2, len(x))
    slopes, step = flat.slopes(x), 1e-6
    for index in [*range(6), *range(count - 6, count + 3)]:
        shifted = np.zeros_like(x)
        shifted[index] = step
        measured = (flat.seconds(x + shifted) - flat.seconds(x - shifted)) / (2 * step)
        assert np.allclose(slopes[:, index], measured, rtol=1e-4, atol=1e-8), index


@NEEDS_STEPS
def test_left_out_rows_are_judged_by_a_fit_that_never_saw_them(
    calibrate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit without a model, or without a GPU, sees no row of it, and judges all of them."""
    steps = calibrate.read([STEPS])
    seen: list[pl.DataFrame] = []

    def recorded(data: Path, kept: pl.DataFrame) -> Any:
        assert data == STEPS.parent
        seen.append(kept)
        names = set(kept["system"])
        return {a: (load(a), {}) for a, own in calibrate.ARCHITECTURES.items() if names & set(own)}

    monkeypatch.setattr(calibrate, "fit_all", recorded)
    for by in ("model", "system"):
        seen.clear()
        scored = calibrate.left_out(STEPS.parent, steps, steps, by)
        assert len(scored) == len(steps)
        alike = calibrate.MODELS if by == "model" else {}
        names = steps[by].replace(alike).unique(maintain_order=True).to_list()
        assert all(
            name not in set(kept[by].replace(alike)) for name, kept in zip(names, seen, strict=True)
        )
    figures = calibrate.figures(scored)
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
    calibrate: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    reason: str,
) -> None:
    """A row that cannot be fitted to is left out, and a line says how many there are, and why."""
    kept = calibrate.read([table(tmp_path / "steps.csv", {}, change, change)])
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
    calibrate: ModuleType, tmp_path: Path, change: dict[str, str], told: str
) -> None:
    """The sentence names the file, the row, the column and what is in it."""
    with pytest.raises(ConfigError, match=r"steps\.csv") as error:
        calibrate.read([table(tmp_path / "steps.csv", {}, change)])
    assert told in str(error.value)


def test_a_table_without_a_row_to_fit_to_is_refused(calibrate: ModuleType, tmp_path: Path) -> None:
    """Nothing is fitted to nothing."""
    with pytest.raises(ConfigError, match="no row of"):
        calibrate.read([table(tmp_path / "steps.csv", {"model": "somebody/Else"})])
