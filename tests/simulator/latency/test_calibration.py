"""The shipped calibration: loadable for every GPU, honest about its source, and checked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.configuration import build
from simulator.errors import ConfigError
from simulator.latency.attention import Term, at_load
from simulator.latency.collectives import Network
from simulator.latency.efficiency import Curve, known, load
from simulator.latency.machine import Machine
from simulator.latency.passes import Load, Operator
from simulator.latency.roofline import Roofline

ROOT = Path(__file__).parents[3]
GPUS = sorted(path.stem for path in (ROOT / "conf/hardware").glob("*.yaml"))
MEASURED = ("ada", "ampere", "blackwell", "blackwell_gddr", "blackwell_ultra", "hopper")


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
    if "inherits" in raw:  # kernels alone
        errors = [kind["held_out_pct"] for kind in raw["fit_error"]["kernels"].values()]
        assert 0 < np.median(errors) < 15
    else:
        assert 0 < raw["fit_error"]["steps"]["median_abs_pct"] < 15


def test_the_ultra_reads_prompts_faster_and_decodes_alike() -> None:
    """Its exponentials are twice as fast: attention over prompts gains, memory-bound decode not."""
    base, ultra = load("blackwell"), load("blackwell_ultra")
    for engine in ("trtllm", "sglang", "vllm"):
        old, new = base.for_engine(engine), ultra.for_engine(engine)
        for dtype in ("bf16", "fp8"):
            gain = [each.curve("prefill_attention", dtype).compute for each in (new, old)]
            assert gain[0] > 1.1 * gain[1], (engine, dtype)
    alike = [each.curve("decode_attention", "fp8").memory for each in (ultra, base)]
    assert alike[0] == pytest.approx(alike[1], rel=0.2)
    assert ultra.inherits is None
    assert ultra.measured_on == ("B300 SXM", "GB300 NVL72")
    assert ultra.collectives == base.collectives


def test_what_an_engines_kernels_do_is_stated_or_inherited(tmp_path: Path) -> None:
    """A file that inherits may state single curves of single engines; the rest is its parent's."""
    for name in ("blackwell.yaml",):
        text = (ROOT / "conf/calibration" / name).read_text()
        (tmp_path / name).write_text(text)
    curve = {"compute": 0.5, "memory": 0.5, "floor_us": 1.0}
    own = {"inherits": "blackwell", "engines": {"vllm": {"gemm": {"fp8": curve}}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    base, mine = load("blackwell", str(tmp_path)), load("mine", str(tmp_path))
    assert mine.for_engine("vllm").curve("gemm", "fp8").compute == 0.5
    assert mine.for_engine("vllm").curve("gemm", "bf16") == base.for_engine("vllm").curve(
        "gemm", "bf16"
    )
    assert mine.for_engine("sglang").kernels == base.for_engine("sglang").kernels
    assert mine.inherits == "blackwell"


def test_quantising_without_a_curve_is_a_small_kernel_like_others(tmp_path: Path) -> None:
    """A calibration of one's own need not know it; another kernel's curve must be there."""
    text = yaml.safe_load((ROOT / "conf/calibration/hopper.yaml").read_text())
    for kind in ("quantise", "scaling", "absorb"):
        del text["kernels"][kind]
    (tmp_path / "hopper.yaml").write_text(yaml.safe_dump(text))
    mine = load("hopper", str(tmp_path))
    assert mine.curve("quantise", "fp8") == mine.curve("memory", "bf16")
    assert mine.curve("scaling", "fp8") == mine.curve("memory", "bf16")
    with pytest.raises(ConfigError, match="no curve for kernel 'absorb'"):
        mine.curve("absorb", "bf16")


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


def test_thin_reads_take_as_long_as_so_much_more_would(
    spec_from: Callable[[str, str, type], Any],
) -> None:
    """Products of ``thin`` columns, and sequences of as many keys, reach half the bandwidth."""
    curve = Curve(compute=1.0, memory=1.0, floor_s=0.0, thin=1000.0)
    plain = replace(curve, thin=0.0)
    gpu = spec_from("hardware", "h100_sxm", GPU)
    network = Network.of(gpu, spec_from("fabric", "hgx8", Fabric))
    shipped = load("hopper")

    def seconds(curve: Curve, op: Operator) -> float:
        kernels = {op.kind: {"bf16": curve}}
        machine = Machine(gpu=gpu, efficiency=replace(shipped, kernels=kernels), network=network)
        return float(machine.seconds(op))

    weights = Operator(name="a", kind="gemm", bytes=2.0 * 1000 * 4096, thin=2.0 * 4096)
    keys = at_load(
        Term(name="b", kind="decode_attention", phase="decode", key_bytes=4096.0),
        Load(batch=7.0, context=7000.0),
    )
    for op in (weights, keys):
        assert seconds(curve, op) == pytest.approx(2.0 * seconds(plain, op), rel=1e-12)
