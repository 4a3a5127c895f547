"""Kernels measured on silicon: tabulated once, kept on disk, interpolated; refusals are clear."""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hardware.gpu import GPU
from simulator.errors import ConfigError
from simulator.latency import silicon
from simulator.latency.base import WorkerSpec
from simulator.latency.pieces import at
from simulator.latency.silicon import BATCHES, CONTEXTS, Silicon, SiliconSteps
from simulator.layout import Layout, Precision

MISSING = importlib.util.find_spec("aiconfigurator_core") is None


class FakeHandle:
    """Answers like the package: milliseconds, linear in work."""

    def predict_prefill_latency(self, bs: int, isl: int, prefix: int = 0) -> float:
        """Return 1 ms, 1 µs a new token and 1 ns per key it attends."""
        assert isl > prefix
        new = isl - prefix
        return 1.0 + 1e-3 * bs * new + 1e-6 * bs * new * (prefix + new / 2)

    def predict_decode_latency(self, bs: int, isl: int, osl: int = 2) -> float:
        """Return 1 ms, 10 µs a sequence and 0.1 µs a KV token."""
        assert osl == 2
        return 1.0 + 1e-2 * bs + 1e-4 * bs * (isl + 1)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for the package; the queries it compiled are listed."""
    queries: list[dict[str, Any]] = []

    def compiled(**query: Any) -> FakeHandle:
        queries.append(query)
        return FakeHandle()

    monkeypatch.setattr(silicon, "package", lambda: (compiled, "1.2.3"))
    return queries


@pytest.fixture
def steps(workers: dict[str, WorkerSpec], fake: list[Any], tmp_path: Path) -> SiliconSteps:
    """Bind the dense worker on the fake package."""
    assert fake == []
    return Silicon(cache=str(tmp_path)).bind(workers["dense"])


def test_nodes_are_met_and_decode_is_exact(steps: SiliconSteps) -> None:
    """At a node the step takes what the package says; step_seconds is the piece to the bit."""
    for batch in (1, 8, 256):
        pieces = steps.decode_pieces(batch)
        assert pieces[-1].upto == math.inf
        for context in (CONTEXTS[0], CONTEXTS[3], CONTEXTS[-1], 12_345):
            seconds = steps.step_seconds(0, 0, 0, 0, batch, batch * context)
            assert seconds == at(pieces, batch * context)
            assert seconds == pytest.approx(
                FakeHandle().predict_decode_latency(batch, context - 1) * 1e-3, rel=1e-9
            )


def test_prefill_follows_tokens_and_attended_keys(steps: SiliconSteps) -> None:
    """One prompt, several short ones and one after a prefix take their own attention."""
    for prompts, length, past in ((1, 2048, 0), (16, 256, 0), (1, 1024, 8192)):
        tokens = prompts * length
        pairs = prompts * (length * past + length * (length + 1) // 2)
        exact = FakeHandle().predict_prefill_latency(prompts, past + length, past) * 1e-3
        seconds = steps.step_seconds(tokens, pairs, past, prompts, 0, 0)
        assert seconds == pytest.approx(exact, rel=0.02)


def test_a_mixed_step_lies_between_its_larger_part_and_the_sum(steps: SiliconSteps) -> None:
    """Sharing a step costs no less than the larger part and no more than two steps."""
    for tokens in (64, 512, 8192):
        for batch in (1, 50, 300):
            pairs, total = tokens * (tokens + 1) // 2, batch * 3000
            chunk = steps.step_seconds(tokens, pairs, 0, 1, 0, 0)
            decode = steps.step_seconds(0, 0, 0, 0, batch, total)
            mixed = steps.step_seconds(tokens, pairs, 0, 1, batch, total)
            assert max(chunk, decode) <= mixed <= (chunk + decode) * (1 + 1e-12)


def test_attention_ranks_share_the_batch(
    workers: dict[str, WorkerSpec], fake: list[Any], tmp_path: Path
) -> None:
    """The fullest of 16 attention-DP ranks sets the pace."""
    steps = Silicon(cache=str(tmp_path)).bind(workers["dep"])
    assert fake[0]["attention_dp_size"] == 16
    assert fake[0]["moe_ep_size"] == 16
    expected = FakeHandle().predict_decode_latency(32, 4095) * 1e-3
    for batch in (512, 500):
        seconds = steps.step_seconds(0, 0, 0, 0, batch, batch * 4096)
        assert seconds == pytest.approx(expected, rel=1e-9)


def test_experts_shared_by_gpus_are_asked_for(workers: dict[str, WorkerSpec]) -> None:
    """The package is told how many GPUs share an expert, and over how many ranks they lie."""
    asked = Silicon().query(workers["shared"])
    names = ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    assert [asked[name] for name in names] == [2, 4, 2, 4]


def test_noisy_measurements_never_fall(
    workers: dict[str, WorkerSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a larger shape was measured faster, the table is levelled."""

    class Noisy(FakeHandle):
        def predict_decode_latency(self, bs: int, isl: int, osl: int = 2) -> float:
            return 5.0 if bs == 4 else super().predict_decode_latency(bs, isl, osl)

    monkeypatch.setattr(silicon, "package", lambda: (lambda **_: Noisy(), "1"))
    steps = Silicon(cache=str(tmp_path)).bind(workers["dense"])
    seconds = [steps.step_seconds(0, 0, 0, 0, n, n * 1000) for n in range(1, 40)]
    assert all(left <= right for left, right in pairwise(seconds))


def test_the_package_is_asked_once(
    workers: dict[str, WorkerSpec], fake: list[Any], tmp_path: Path
) -> None:
    """A second bind reads the kept table; another shape or engine asks again."""
    model = Silicon(cache=str(tmp_path))
    first = model.bind(workers["dense"])
    second = model.bind(workers["dense"])
    assert len(fake) == 1
    args = (1000, 500_500, 0, 1, 7, 9000)
    assert first.step_seconds(*args) == second.step_seconds(*args)
    model.bind(replace(workers["dense"], layout=Layout(tp=8)))
    replace(model, engine="vllm").bind(workers["dense"])
    assert len(fake) == 3


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_a_broken_cache_is_made_again(
    workers: dict[str, WorkerSpec], fake: list[Any], tmp_path: Path, content: bytes
) -> None:
    """A torn file costs time, not the run."""
    Silicon(cache=str(tmp_path)).bind(workers["dense"])
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(content)
    Silicon(cache=str(tmp_path)).bind(workers["dense"])
    assert len(fake) == 2
    assert kept.stat().st_size > 1000


def test_a_folder_that_cannot_be_written_is_no_error(
    workers: dict[str, WorkerSpec], fake: list[Any], tmp_path: Path
) -> None:
    """Without a cache folder the tables are asked each time."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    steps = Silicon(cache=str(blocked / "below")).bind(workers["dense"])
    assert steps.decode_pieces(BATCHES[0])
    assert len(fake) == 1


@pytest.mark.skipif(not MISSING, reason="aiconfigurator-core is installed")
def test_an_absent_package_says_how_to_get_it(workers: dict[str, WorkerSpec]) -> None:
    """The error names the extra and what works without it."""
    with pytest.raises(ConfigError, match=r"disaggsim\[silicon\]") as error:
        Silicon().bind(workers["dense"])
    assert "roofline" in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w, s: replace(w, gpu=s("hardware", "mi300x", GPU)), ("MI300X", "H100 SXM")),
        (
            lambda w, _: replace(w, model=replace(w.model, name="Mine-7B")),
            ("Mine-7B", "Llama-3.1-8B"),
        ),
        (
            lambda w, _: replace(w, precision=Precision(weights="int4")),
            ("int4", "nvfp4"),
        ),
    ],
)
def test_what_the_package_lacks_is_named(
    workers: dict[str, WorkerSpec],
    fake: list[Any],
    spec_from: Callable[..., Any],
    tmp_path: Path,
    change: Callable[..., WorkerSpec],
    words: tuple[str, ...],
) -> None:
    """A GPU, model or dtype without tables is refused with those there are; nothing is asked."""
    with pytest.raises(ConfigError) as error:
        Silicon(cache=str(tmp_path)).bind(change(workers["dense"], spec_from))
    assert all(word in str(error.value) for word in words)
    assert fake == []


def test_nothing_is_downloaded(
    workers: dict[str, WorkerSpec], fake: list[Any], tmp_path: Path
) -> None:
    """A model the package does not carry must be a folder, never a name to fetch."""
    with pytest.raises(ConfigError, match=r"config\.json"):
        Silicon(cache=str(tmp_path), model_id="someone/model").bind(workers["dense"])
    assert fake == []
    (tmp_path / "config.json").write_text("{}")
    Silicon(cache=str(tmp_path / "kept"), model_id=str(tmp_path)).bind(workers["dense"])
    assert fake[0]["model_path"] == str(tmp_path)


def test_a_shape_without_measurements_is_named(
    workers: dict[str, WorkerSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the package raises becomes one sentence with the shape and a way out."""

    def refuse(**_: Any) -> FakeHandle:
        raise RuntimeError("perf database error: no such MoE\nsecond line")

    monkeypatch.setattr(silicon, "package", lambda: (refuse, "1"))
    with pytest.raises(ConfigError, match="no such MoE") as error:
        Silicon(cache=str(tmp_path)).bind(workers["dense"])
    assert "tp_size=4" in str(error.value)
    assert "second line" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_prompts_attend_in_16_bits_where_8_were_not_measured(
    workers: dict[str, WorkerSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """KV of 8 bits is read by kernels of 16-bit queries too, as for most models under vLLM."""
    asked: list[str] = []

    def compiled(*, fmha_quant_mode: str, **_: Any) -> FakeHandle:
        asked.append(fmha_quant_mode)
        if fmha_quant_mode == "fp8":
            raise RuntimeError("context attention data missing")
        return FakeHandle()

    monkeypatch.setattr(silicon, "package", lambda: (compiled, "1"))
    worker = workers["dense"]
    narrow = replace(worker, precision=replace(worker.precision, kv="fp8"))
    assert Silicon(cache=str(tmp_path)).bind(narrow).decode_pieces(BATCHES[0])
    assert asked == ["fp8", "bfloat16"]


@pytest.mark.parametrize(
    ("values", "word"), [({"engine": "mine"}, "engine"), ({"host_overhead_s": -1.0}, "host")]
)
def test_bad_options_are_named(values: dict[str, Any], word: str) -> None:
    """Each setting is checked."""
    with pytest.raises(ConfigError, match=word):
        Silicon(**values)


@pytest.mark.skipif(MISSING, reason="aiconfigurator-core is not installed")
def test_real_tables_agree_with_the_roofline(
    workers: dict[str, WorkerSpec], tmp_path: Path
) -> None:
    """The calibrated roofline and the kernels it was fitted to are of one mind within 30 %."""
    from simulator.latency.roofline import Roofline

    worker = workers["dense"]
    real = Silicon(cache=str(tmp_path)).bind(worker)
    ours = Roofline(host_overhead_s=0.0).bind(worker)
    for args in ((0, 0, 0, 0, 32, 32 * 4096), (4096, 4096 * 4097 // 2, 0, 1, 0, 0)):
        assert real.step_seconds(*args) == pytest.approx(ours.step_seconds(*args), rel=0.3)


@pytest.mark.skipif(MISSING, reason="aiconfigurator-core is not installed")
def test_no_shipped_model_would_be_downloaded() -> None:
    """The package carries every model it is asked for by name; another it would fetch."""
    common = importlib.import_module("aiconfigurator_core.sdk.common")
    assert set(silicon.MODELS.values()) <= set(common.DefaultHFModels)
