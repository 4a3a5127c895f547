"""Headroom: queues before prompts and seats, against the theory they approximate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from simulator.errors import ConfigError
from simulator.explore.bandwidth import Handover
from simulator.explore.evaluate import collect, decode_points, prefill_points
from simulator.explore.headroom import Headroom, Queue
from simulator.explore.match import at_load, disaggregated, paced, replicated
from simulator.explore.space import Lengths, Platform, Space
from simulator.layout import Layout

LOADS = st.floats(0.05, 0.97)


def erlang_c(servers: int, load: float) -> float:
    """Return the probability of waiting in M/M/n, exactly."""
    offered = servers * load
    below = sum(offered**k / math.factorial(k) for k in range(servers))
    last = offered**servers / math.factorial(servers) / (1.0 - load)
    return last / (below + last)


@pytest.mark.parametrize("servers", [1, 2, 8, 32])
@pytest.mark.parametrize("load", [0.7, 0.85, 0.95])
def test_exponential_service_waits_as_in_theory(servers: int, load: float) -> None:
    """The waiting time's quantile is M/M/n's: within a tenth of a service at high loads."""
    queue = Queue(rate=np.ones(1), servers=np.full(1, float(servers)), variation=1.0)
    wait = queue.wait_s(np.full(1, load), 0.9)[0]
    share = erlang_c(servers, load)
    exact = max(0.0, math.log(share / 0.1)) / (servers * (1.0 - load))
    assert wait == pytest.approx(exact, abs=0.1 + 0.05 * exact)


@given(LOADS, LOADS, st.integers(1, 40), st.floats(0.0, 5.0))
def test_more_load_waits_longer_and_more_servers_less(
    one: float, two: float, servers: int, variation: float
) -> None:
    """The wait rises with the load and the variation, and falls with the servers."""
    low, high = sorted((one, two))
    queue = Queue(rate=np.ones(1), servers=np.full(1, float(servers)), variation=variation)
    more = Queue(rate=np.ones(1), servers=np.full(1, servers + 1.0), variation=variation)
    wilder = Queue(rate=np.ones(1), servers=np.full(1, float(servers)), variation=variation + 1)
    wait = queue.wait_s(np.full(1, low), 0.9)[0]
    assert wait <= queue.wait_s(np.full(1, high), 0.9)[0]
    assert more.wait_s(np.full(1, low), 0.9)[0] <= wait
    assert wait <= wilder.wait_s(np.full(1, low), 0.9)[0]


@given(st.floats(0.01, 0.9), st.integers(1, 40))
def test_the_load_found_is_the_greatest_in_time(own: float, servers: int) -> None:
    """At it prompts are in time; a little above they are not."""
    headroom = Headroom(ttft_s=1.0)
    queue = Queue(rate=np.full(1, 5.0), servers=np.full(1, float(servers)), variation=1.0)
    load = headroom.prompts_load(queue, np.full(1, own))
    assert own + headroom.wait_s(queue, load)[0] <= 1.0
    assert own + headroom.wait_s(queue, load + 1 / 2048)[0] > 1.0 or load[0] > 0.99


def test_prompts_that_are_late_anyway_have_no_load() -> None:
    """Nothing can be promised where a prompt alone takes longer than it may."""
    queue = Queue(rate=np.ones(1), servers=np.ones(1), variation=0.0)
    assert Headroom(ttft_s=1.0).prompts_load(queue, np.full(1, 1.5))[0] == 0.0


@pytest.mark.parametrize("seats", [20, 60, 200, 1000])
@pytest.mark.parametrize("share", [0.8, 0.9, 0.99])
def test_seats_are_free_as_often_as_a_poisson_number_leaves_them(seats: int, share: float) -> None:
    """Of a Poisson number of sequences ``share`` of the time fewer than the seats are there."""
    load = Headroom(attainment=share).seats_load(np.full(1, float(seats)))[0]
    free = poisson.cdf(seats, load * seats)
    assert free == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_one(share: float) -> None:
    """A headroom outside [0, 1) is refused."""
    with pytest.raises(ConfigError, match="headroom must lie in"):
        Headroom(share=share)


def test_a_fixed_share_is_kept_free(dense: Platform) -> None:
    """With a share of one's own every rate is that much lower, and the pools stay as they are."""
    lengths = Lengths.constant(1000, 100)
    space = Space(platform=dense, lengths=lengths, layouts=(Layout(),), chunks=(512,))
    prefill, decode = collect(prefill_points(space)).head(1), collect(decode_points(space))
    whole = disaggregated(prefill, decode, (dense, dense), lengths)
    headroom = Headroom(share=0.2)
    points = (paced(each, lengths, headroom) for each in (prefill, decode))
    less = disaggregated(*points, (dense, dense), lengths, headroom=headroom)
    assert less["rate"].to_list() == pytest.approx((0.8 * whole["rate"]).to_list())
    assert less["load"].to_list() == pytest.approx([0.8] * len(less))
    for name in ("gpus", "prefill_workers", "ttft_s"):
        assert less[name].to_list() == whole[name].to_list()


def test_the_first_token_waits_for_the_hand_over(dense: Platform) -> None:
    """Seen on the decode worker, it comes a transfer and a step later; layer-wise hides most."""
    lengths = Lengths.constant(4000, 100)
    space = Space(platform=dense, lengths=lengths, layouts=(Layout(),), chunks=(512,))
    prefill, decode = collect(prefill_points(space)).head(1), collect(decode_points(space))
    frame = disaggregated(prefill, decode, (dense, dense), lengths)
    wire = 4000 * 131072 / dense.fabric.reach(dense.gpu, "scale_up")  # one GPU, inside a box of 8
    both, shown = (dense, dense), "decode"
    late, soon = (
        frame.select(s=Handover(mode=mode, first_token=shown).seconds(both, 4000))["s"]
        for mode in ("push", "push_layerwise")
    )
    assert Handover().seconds(both, 4000) == 0.0
    assert (soon > frame["tpot_s"]).all()
    inside = frame["gpus"] <= 8
    gap = (late - soon).filter(inside)
    assert gap.to_list() == pytest.approx([wire * 31 / 32] * len(gap))


def test_a_deployment_at_another_load_follows() -> None:
    """Throughput and load rise with the rate, cost per token falls; unknown costs stay unknown."""
    row = {"rate": 4.0, "load": 0.8, "throughput": 100.0, "usd_per_mtok": 2.0, "gpus": 8}
    half = at_load({**row, "joules_per_token": None}, 0.5)
    assert half == {
        "rate": 2.0,
        "load": 0.4,
        "throughput": 50.0,
        "usd_per_mtok": 4.0,
        "gpus": 8,
        "joules_per_token": None,
    }


def test_workers_are_replicated_whole() -> None:
    """More co-located workers take more GPUs and requests, and change nothing per GPU."""
    row = {"gpus": 8, "decode_gpus": 8, "mixed_workers": 2, "rate": 3.0, "throughput": 5.0}
    assert replicated(row, 6) == {
        **row,
        "gpus": 24,
        "decode_gpus": 24,
        "mixed_workers": 6,
        "rate": 9.0,
    }
