"""Workloads as the configuration builds them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from workloads.arrivals import Gamma, Poisson
from workloads.errors import TraceError
from workloads.lengths import Constant, LogNormal, TracePairs, Uniform
from workloads.replay import Replay
from workloads.trace import Trace
from workloads.workload import SyntheticWorkload, TraceWorkload, Workload

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "conf" / "workload").glob("*.yaml"))
ROWS = "".join(f"2023-11-16 00:00:0{k},{k + 10},{k + 1}\n" for k in range(5))


def drawn(workload: Workload, arrivals: int = 1, lengths: int = 2) -> Trace:
    """Return the workload's trace from seeded streams."""
    return workload.trace(np.random.default_rng(arrivals), np.random.default_rng(lengths))


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    """Return the path of a small trace."""
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + ROWS)
    return str(path)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_workload_draws(config: Path, trace_file: str) -> None:
    """Each configuration instantiates and gives the same trace twice from the same seeds."""
    settings = OmegaConf.load(config)
    assert isinstance(settings, DictConfig)
    if OmegaConf.is_missing(settings, "path"):
        settings.path = trace_file
    workload = instantiate(settings, _convert_="all")
    first, second = drawn(workload), drawn(workload)
    assert first.equals(second)
    bounded = settings.get("requests") or (5 if "path" in settings else None)
    assert len(first) == bounded if bounded else len(first) > 5


def test_the_default_workload_is_bursty_chat() -> None:
    """5,000 requests at 8/s on average, bursts at 24/s, lengths near the conversation trace's."""
    config = next(path for path in CONFIGS if path.stem == "bursty")
    workload = instantiate(OmegaConf.load(config), _convert_="all")
    trace = drawn(workload)
    assert workload.arrivals.mmpp.rates == pytest.approx((4, 24))
    assert np.median(trace.column("input_tokens")) == pytest.approx(np.exp(6.633), rel=0.05)
    assert trace.column("output_tokens").mean() == pytest.approx(209, rel=0.05)
    seconds = np.bincount(trace.column("arrival_s").astype(int))
    assert seconds.var() / seconds.mean() > 3


def test_arrivals_and_lengths_have_streams_of_their_own() -> None:
    """Another arrival process, or another seed for it, leaves the lengths as they were."""
    law = LogNormal(mu=6, sigma=1)
    one, other = (
        SyntheticWorkload(arrivals=process, input_lengths=law, output_lengths=law, requests=99)
        for process in (Poisson(rate=3), Gamma(rate=9, cv=3))
    )
    first, second = drawn(one, arrivals=1), drawn(other, arrivals=8)
    assert np.array_equal(first.column("input_tokens"), second.column("input_tokens"))
    assert not np.array_equal(first.column("arrival_s"), second.column("arrival_s"))


def test_a_duration_bounds_the_workload() -> None:
    """No request arrives at or after the duration."""
    size = Constant(tokens=3)
    workload = SyntheticWorkload(
        arrivals=Poisson(rate=20), input_lengths=size, output_lengths=size, duration_s=10
    )
    trace = drawn(workload)
    assert trace.column("arrival_s").max() < 10
    assert trace.meta.rows_read == trace.meta.rows_kept == len(trace)


def test_a_closed_loop_needs_no_arrivals() -> None:
    """With clients given, all requests wait at 0 for the engine to send them."""
    size = Constant(tokens=3)
    workload = SyntheticWorkload(input_lengths=size, output_lengths=size, requests=7, concurrency=2)
    assert drawn(workload).column("arrival_s").tolist() == [0.0] * 7
    assert workload.concurrency == 2


def test_lengths_can_come_from_a_trace(trace_file: str) -> None:
    """Pairs of a recorded trace under synthetic arrivals."""
    pairs = TracePairs(path=trace_file)
    trace = drawn(SyntheticWorkload(arrivals=Poisson(rate=3), pairs=pairs, requests=20))
    assert set(trace.column("input_tokens") - trace.column("output_tokens")) == {9}


def test_a_trace_workload_replays_its_file(trace_file: str) -> None:
    """Path, policies and replay settings reach the reader."""
    workload = TraceWorkload(path=trace_file, max_context=17, replay=Replay(rate_scale=2))
    trace = drawn(workload)
    assert trace.column("arrival_s").tolist() == [0, 0.5, 1.0, 1.5]
    assert trace.meta.drops == {"over_context": 1}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "give requests or duration_s"),
        ({"requests": 5}, "give arrivals, or concurrency"),
        ({"requests": 0, "concurrency": 1}, "requests must be a whole number of at least 1"),
        ({"duration_s": -1.0}, "duration_s must be above 0 s but got -1"),
        ({"duration_s": 5.0, "concurrency": 2}, "a closed loop .* needs requests"),
        ({"requests": 5, "concurrency": 0}, "concurrency must be a whole number of at least 1"),
        ({"requests": 5, "concurrency": 1}, "give input_lengths and output_lengths, or pairs"),
        (
            {"requests": 5, "concurrency": 1, "pairs": 1, "input_lengths": Uniform(low=1, high=2)},
            "pairs excludes input_lengths",
        ),
        (
            {
                "requests": 5,
                "concurrency": 1,
                "input_lengths": Uniform(low=1, high=2),
                "output_lengths": Uniform(low=1, high=2),
                "correlation": 3.0,
            },
            r"correlation must lie in -1\.\.1",
        ),
    ],
)
def test_impossible_workloads_are_refused(settings: dict[str, object], expected: str) -> None:
    """Each setting that cannot be has its sentence, before anything is drawn."""
    with pytest.raises(TraceError, match=expected):
        SyntheticWorkload(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: TraceWorkload(path=""), "path must name a file but got ''"),
        (lambda: TraceWorkload(path="x", zero_output="keep"), "zero_output must be one of drop"),
        (lambda: TraceWorkload(path="x", over_context="cut"), "over_context must be one of drop"),
        (lambda: TraceWorkload(path="x", max_context=1), "max_context must be a whole number of"),
        (lambda: TraceWorkload(path="x", concurrency=-1), "concurrency must be a whole number"),
    ],
)
def test_impossible_trace_workloads_are_refused(make: Callable[[], object], expected: str) -> None:
    """A wrong policy is told before the file is opened."""
    with pytest.raises(TraceError, match=expected):
        make()


def test_a_duration_too_short_for_any_request_says_so() -> None:
    """An empty workload is an error, not an empty simulation."""
    size = Constant(tokens=3)
    workload = SyntheticWorkload(
        arrivals=Poisson(rate=0.001), input_lengths=size, output_lengths=size, duration_s=0.001
    )
    with pytest.raises(TraceError, match=r"no request arrives within 0\.001 s"):
        drawn(workload)
