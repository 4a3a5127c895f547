"""What a run tells of its sessions: how long they took, each turn's TTFT, what was never sent."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from simulator.cli import compose
from simulator.compare.reading import find
from simulator.compare.statistics import paired
from simulator.counterpart import compared
from simulator.errors import USER_ERRORS
from simulator.experiment import Experiment, simulate
from simulator.report.page import write_report
from simulator.report.terminal import facts
from workloads.sessions import Turns
from workloads.trace import Trace, TraceMeta, canonical_frame, token_sum


@dataclass(frozen=True, kw_only=True)
class Chats:
    """Sessions of three turns, a second of thought between them; every fifth has a huge prompt."""

    turns: Turns = Turns()  # noqa: RUF009 - frozen
    concurrency: int | None = None
    sessions: int = 20
    huge: int = 10**7

    def trace(
        self,
        rng_arrivals: np.random.Generator,  # noqa: ARG002 - a protocol's
        rng_lengths: np.random.Generator,
    ) -> Trace:
        """Return the sessions, one after the other."""
        count = 3 * self.sessions
        turn = np.arange(count) % 3
        rows = np.arange(count)
        inputs = rng_lengths.integers(100, 500, count)
        inputs[1 :: 3 * 5] = self.huge
        frame = canonical_frame(
            pl.DataFrame(
                {
                    "arrival_s": [0.5 * row if row % 3 == 0 else None for row in rows.tolist()],
                    "input_tokens": inputs,
                    "output_tokens": rng_lengths.integers(2, 60, count),
                    "session_id": rows // 3,
                    "turn": turn,
                    "parent_id": [row - 1 if row % 3 else None for row in rows.tolist()],
                    "delay_s": [1.0 if row % 3 else None for row in rows.tolist()],
                }
            )
        )
        meta = TraceMeta(
            name="chats",
            format="synthetic",
            rows_read=count,
            rows_kept=count,
            tokens_read=token_sum(frame),
            loop="closed",
        )
        return Trace(frame, meta)


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    """Return the default deployment under sessions some of whose turns cannot be served."""
    return replace(compose(), workload=Chats())


def test_sessions_are_told(experiment: Experiment, tmp_path: Path) -> None:
    """Durations, TTFT by turn and what was never sent follow from the requests themselves."""
    results = simulate(experiment)
    told, requests = results.summary["sessions"], results.requests
    assert results.summary["requests"]["arrived"] == 56
    assert requests["request_id"].to_list() == [row for row in range(60) if row % 15 != 2]
    assert told["never_sent"] == 4
    assert (told["by"], told["after_failure"]) == ("completion", "abandon")
    assert (told["sessions"], told["whole_sessions"]) == (20, 16)
    assert told["turns_mean"] == 56 / 20
    whole = [part for _, part in requests.group_by("session_id") if part.height == 3]
    lasted = [part["finish_s"].max() - part["arrival_s"].min() for part in whole]  # type: ignore[operator]
    assert told["duration_s"]["mean"] == pytest.approx(np.mean(lasted))
    assert told["duration_s"]["p90"] == pytest.approx(np.quantile(lasted, 0.9))
    assert min(lasted) > 2.0
    assert list(told["ttft_by_turn_s"]) == ["1", "2", "3"]
    second = requests.filter(turn=1)["ttft_s"].drop_nulls().to_numpy()
    assert told["ttft_by_turn_s"]["2"]["p50"] == pytest.approx(np.median(second))
    assert any(
        "4 of 60 requests (6.7%) were never sent" in each for each in results.summary["warnings"]
    )
    words = dict(facts(results))
    assert "4 requests never sent after a failed one" in words["sessions"]
    assert words["TTFT p50 by turn"].count(":") == 3
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "turns sent after the answers they wait for" in page


def test_going_on_sends_them_all(experiment: Experiment) -> None:
    """With go_on a failed turn does not end its session."""
    going = replace(experiment, workload=Chats(turns=Turns(after_failure="go_on")))
    results = simulate(going)
    assert results.summary["requests"]["arrived"] == 60
    assert results.summary["sessions"]["never_sent"] == 0


def test_sessions_take_turns_with_clients(experiment: Experiment) -> None:
    """With one client one session follows the other."""
    results = simulate(replace(experiment, workload=Chats(concurrency=1)))
    spans = results.requests.group_by("session_id", maintain_order=True).agg(
        pl.col("arrival_s").min(), pl.col("finish_s").max(), pl.col("arrival_s").max().alias("last")
    )
    ended = spans.select(pl.max_horizontal("finish_s", "last")).to_series()
    np.testing.assert_array_equal(spans["arrival_s"][1:].to_numpy(), ended[:-1].to_numpy())


def test_runs_of_sessions_are_paired_by_request(experiment: Experiment, tmp_path: Path) -> None:
    """Two runs whose turns came at other times are compared request by request."""
    whole = replace(experiment, workload=Chats(huge=400))
    for name, utilization in (("one", 1.0), ("two", 2.0)):
        latency = replace(whole.deployment.latency, scale=utilization)  # type: ignore[type-var]
        deployment = replace(whole.deployment, latency=latency)
        simulate(replace(whole, deployment=deployment)).write(tmp_path / name, report=None)
    runs = find([str(tmp_path / "one"), str(tmp_path / "two")]).runs
    moved = paired(runs[0], runs[1], "ttft_s")
    assert moved is not None
    assert len(moved) == 60
    assert (moved > 0).all()


def test_a_counterpart_serves_the_same_sessions(experiment: Experiment) -> None:
    """The same GPUs used the other way are compared where the same requests arrived."""
    trace = experiment.trace()
    results = compared(experiment, simulate(experiment), trace)
    assert results.summary["counterpart"]["more_attained"] is not None


def test_a_clock_needs_times(experiment: Experiment) -> None:
    """Replaying by a clock that is not there costs one sentence."""
    with pytest.raises(USER_ERRORS, match=r"turns\.by=clock needs the time of every request"):
        simulate(replace(experiment, workload=Chats(turns=Turns(by="clock"))))
