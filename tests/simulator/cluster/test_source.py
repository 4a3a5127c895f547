"""Where requests come from: a trace's times, or clients that wait for their answers."""

import numpy as np
import pytest
from builders import colocated, disaggregated, poisson_traffic
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.deployment import Batching, Deployment
from simulator.errors import ConfigError
from simulator.record import STATUSES, RunRecord

SMALL = Batching(kv_blocks=40, max_num_seqs=4, max_num_batched_tokens=64)


def closed(requests: int, clients: int, deployment: Deployment, seed: int = 0) -> RunRecord:
    """Run a closed loop; some of its requests are too long to be served."""
    base = poisson_traffic(requests, 1.0, 250, 30, seed)
    load = Traffic(
        arrival_s=base.arrival_s,
        input_tokens=base.input_tokens,
        output_tokens=base.output_tokens,
        concurrency=clients,
    )
    return run(deployment, load, RunOptions())


@settings(max_examples=30)
@given(clients=st.integers(1, 9), seed=st.integers(0, 99), mixed=st.booleans())
def test_every_client_has_one_request_under_way(clients: int, seed: int, mixed: bool) -> None:
    """Whenever a request arrives, all earlier ones but N − 1 have ended, and it comes at once.

    A request that is turned away ends as it arrives.
    """
    deployment = colocated(2, batching=SMALL) if mixed else disaggregated(2, 1, batching=SMALL)
    columns = closed(30, clients, deployment, seed).requests
    arrival = columns["arrival_s"]
    rejected = columns["status"] == STATUSES.index("rejected")
    ended = np.where(rejected, arrival, columns["finish_s"])
    assert (np.diff(arrival) >= 0).all()
    for request, when in enumerate(arrival):
        under_way = (ended[:request] > when).sum()
        assert under_way < clients
        assert when == 0.0 or when in ended[:request]
        earlier = np.sort(ended[:request])
        assert when == (earlier[request - clients] if request >= clients else 0.0)


def test_some_of_these_requests_are_turned_away() -> None:
    """What is said of rejected requests above is said of some."""
    columns = closed(30, 3, colocated(2, batching=SMALL)).requests
    assert 0 < (columns["status"] == STATUSES.index("rejected")).sum() < 30


def test_trace_times_are_kept() -> None:
    """In an open loop requests arrive when the trace says, however busy the workers are."""
    load = poisson_traffic(200, 50.0, 200, 50)
    record = run(disaggregated(1, 1), load, RunOptions())
    np.testing.assert_array_equal(record.requests["arrival_s"], load.arrival_s)
    np.testing.assert_array_equal(record.requests["admitted_s"], load.arrival_s)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arrival_s": np.array([0.0, -1.0])}, "must be finite, at least 0 s and never fall"),
        ({"arrival_s": np.array([-1.0, 0.0])}, "must be finite, at least 0 s and never fall"),
        ({"arrival_s": np.array([0.0, np.nan])}, "must be finite, at least 0 s and never fall"),
        ({"arrival_s": np.array([0.0, np.inf])}, "must be finite, at least 0 s and never fall"),
        ({"arrival_s": np.array([0.0])}, "differ in length"),
        ({"input_tokens": np.array([1], np.int32)}, "differ in length"),
        ({"output_tokens": np.array([1], np.int32)}, "differ in length"),
        ({"input_tokens": np.array([1, 0], np.int32)}, "at least 1 input and 1 output token"),
        ({"output_tokens": np.array([0, 1], np.int32)}, "at least 1 input and 1 output token"),
        ({"concurrency": 0}, "concurrency must be at least 1, not 0"),
    ],
)
def test_traffic_checks_itself(changes: dict[str, object], told: str) -> None:
    """What cannot be traffic is refused with what is wrong; what just can be is not."""
    lengths = np.array([1, 1], np.int32)
    good: dict[str, object] = {
        "arrival_s": np.array([0.0, 0.0]),
        "input_tokens": lengths,
        "output_tokens": lengths,
        "concurrency": 1,
    }
    Traffic(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=told):
        Traffic(**{**good, **changes})  # type: ignore[arg-type]


def test_traffic_needs_a_request() -> None:
    """Nothing to simulate is refused."""
    nothing = np.array([], np.int32)
    with pytest.raises(ConfigError, match="no requests to simulate"):
        Traffic(arrival_s=np.array([]), input_tokens=nothing, output_tokens=nothing)
