"""Who waits for whom in a trace, when a replay follows it, and what is told of it."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from workloads.errors import TraceError
from workloads.sessions import Following, Turns, following, told
from workloads.trace import Trace, TraceMeta, canonical_frame, token_sum


def trace(loop: str = "closed", **columns: list[Any]) -> Trace:
    """Return a trace of these columns, every prompt of 10 tokens and answer of 2."""
    count = len(next(iter(columns.values())))
    lengths = {"input_tokens": [10] * count, "output_tokens": [2] * count}
    frame = canonical_frame(pl.DataFrame({**lengths, **columns}))
    meta = TraceMeta(
        name="chat",
        format="test",
        rows_read=count,
        rows_kept=count,
        tokens_read=token_sum(frame),
        loop=loop,
    )
    return Trace(frame, meta)


CHAIN = {
    "arrival_s": [0.0, None, None, 4.0],
    "session_id": [0, 0, 0, 1],
    "parent_id": [None, 0, 1, None],
    "delay_s": [None, 1.5, 2.0, None],
}
TIMED = {**CHAIN, "arrival_s": [0.0, 3.0, 9.0, 9.5]}


def test_a_chain_is_followed() -> None:
    """Each turn waits for the one before, and the first ones for nobody."""
    found = following(trace(**CHAIN))
    assert found.parent.tolist() == [0, 1]
    assert found.child.tolist() == [1, 2]
    assert found.delay_s.tolist() == [1.5, 2.0]
    assert found.firsts.tolist() == [0, 3]
    assert found.unknown == 0
    sessions = found.sessions()
    assert sessions[0] == sessions[1] == sessions[2] != sessions[3]
    assert found.earliest(np.array([0.0, np.nan, np.nan, 4.0])).tolist() == [0.0, 1.5, 3.5, 4.0]


def test_unknown_waits_are_what_is_left_or_nothing() -> None:
    """A wait nobody told is the time from answer to next turn where known, else 0 s."""
    columns = {**TIMED, "delay_s": [None] * 4, "src_e2e_s": [1.0, None, None, None]}
    found = following(trace("open", **columns))
    assert found.delay_s.tolist() == [2.0, 0.0]
    assert found.unknown == 1
    long = {**columns, "src_e2e_s": [5.0, 1.0, None, None]}
    assert following(trace("open", **long)).delay_s.tolist() == [0.0, 5.0]


@pytest.mark.parametrize(
    ("by", "timed", "clients", "follows"),
    [
        ("auto", True, False, False),
        ("auto", True, True, True),
        ("auto", False, False, True),
        ("clock", True, False, False),
        ("clock", True, True, False),
        ("clock", False, True, False),
        ("completion", True, False, True),
        ("completion", False, True, True),
    ],
)
def test_what_a_replay_follows(by: str, timed: bool, clients: bool, follows: bool) -> None:
    """The clock where every request has its time and nobody says otherwise, else completion."""
    loop = "open" if timed else "closed"
    found = Turns(by=by).follow(trace(loop, **(TIMED if timed else CHAIN)), clients=clients)
    assert (found is not None) == follows


def test_what_cannot_be_followed() -> None:
    """A clock without times, and completion without links, are told in a sentence."""
    with pytest.raises(
        TraceError, match=r"turns\.by=clock needs the time of every request, but 2 ha"
    ):
        Turns(by="clock").follow(trace(**CHAIN))
    with pytest.raises(TraceError, match=r"turns\.by=completion needs requests that wait"):
        Turns(by="completion").follow(trace("open", arrival_s=[0.0, 1.0]))
    with pytest.raises(TraceError, match="by must be one of auto, completion, clock but got 'now'"):
        Turns(by="now")
    with pytest.raises(TraceError, match="after_failure must be one of abandon, go_on"):
        Turns(after_failure="retry")


def test_what_is_told() -> None:
    """A run's summary says what sent the turns; nothing where there are no sessions."""
    chat = trace(**CHAIN)
    found = Turns(after_failure="go_on").follow(chat)
    assert told(Turns(after_failure="go_on"), chat, found) == {
        "by": "completion",
        "after_failure": "go_on",
        "unknown_delays": 0,
    }
    assert found is not None
    assert found.go_on
    assert told(Turns(), trace("open", **TIMED), None)["by"] == "clock"
    assert told(Turns(), trace("open", arrival_s=[0.0]), None) == {}


@pytest.mark.parametrize(
    ("parent", "child", "delay", "expected"),
    [
        (1, 1, 0.0, "request 1 cannot wait for request 1"),
        (2, 1, 0.0, "request 1 cannot wait for request 2"),
        (0, 3, 0.0, "request 3 cannot wait for request 0"),
        (0, 1, -1.0, "the delay of request 1 must be a finite number of seconds, at least 0"),
        (0, 1, float("inf"), "at least 0, but is inf"),
    ],
)
def test_impossible_links_are_refused(parent: int, child: int, delay: float, expected: str) -> None:
    """A parent comes before its child, both are there, and a delay is a number of seconds."""
    with pytest.raises(TraceError, match=expected):
        Following(
            requests=3,
            parent=np.array([parent]),
            child=np.array([child]),
            delay_s=np.array([delay]),
            dispatch=np.zeros(1, dtype=bool),
        )
