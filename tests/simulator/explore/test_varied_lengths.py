"""Traffic of many lengths: sums over a sample, and the pace a saturated deployment keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.deployment import Batching, Deployment, Pool, Transfer
from simulator.explore.colocated import colocated_points
from simulator.explore.evaluate import chunk_sizes, collect, decode_points, prefill_points
from simulator.explore.space import Lengths, Platform, Space
from simulator.layout import Layout
from simulator.record import RunRecord

DEP = Layout(attention_dp=8, ep=8)


def drawn(count: int, seed: int = 0) -> Lengths:
    """Return log-normal lengths: some prompts many times as long as others."""
    rng = np.random.default_rng(seed)
    isl, osl = np.exp(rng.normal(6.5, 1.0, count)), np.exp(rng.normal(4.0, 0.8, count))
    return Lengths(
        isl=tuple(np.clip(isl, 1, 20_000).astype(int).tolist()),
        osl=tuple(np.clip(osl, 1, 600).astype(int).tolist()),
    )


LENGTHS = drawn(400)
samples = st.lists(st.tuples(st.integers(1, 500), st.integers(2, 60)), min_size=1, max_size=12)


@given(samples)
def test_a_batch_holds_what_its_sequences_hold_while_they_stay(
    pairs: list[tuple[int, int]],
) -> None:
    """Means over every iteration of every request: context, KV set aside, its blocks."""
    lengths = Lengths(isl=tuple(i for i, _ in pairs), osl=tuple(o for _, o in pairs))
    each = [(isl + step, isl + osl - 1, isl, osl) for isl, osl in pairs for step in range(1, osl)]
    context, held = (np.array([row[at] for row in each]) for at in (0, 1))
    assert lengths.context == pytest.approx(context.mean())
    assert lengths.held == int(np.ceil(round(held.mean(), 9)))
    mean, spread = lengths.blocks(16)
    assert mean == pytest.approx(np.ceil(held / 16).mean())
    assert spread == pytest.approx(np.ceil(held / 16).std(), abs=1e-6)
    middles = [isl + osl / 2 for _, _, isl, osl in each]
    assert lengths.context_spread == pytest.approx(np.std(middles), abs=1e-6)


@given(samples, st.integers(1, 300))
def test_chunks_of_a_sample_are_those_of_each_prompt(
    pairs: list[tuple[int, int]], chunk: int
) -> None:
    """Their number, its square and the tokens before each, on average over the prompts."""
    lengths = Lengths(isl=tuple(i for i, _ in pairs), osl=tuple(o for _, o in pairs))
    sizes = [chunk_sizes(isl, chunk) for isl, _ in pairs]
    pieces = lengths.pieces(chunk)
    assert pieces.mean == pytest.approx(np.mean([len(each) for each in sizes]))
    assert pieces.square == pytest.approx(np.mean([len(each) ** 2 for each in sizes]))
    earlier = [(np.cumsum(each) - each).sum() for each in sizes]
    assert pieces.earlier == pytest.approx(np.mean(earlier))


@given(samples)
def test_a_stream_cut_anywhere_has_so_much_before_the_cut(pairs: list[tuple[int, int]]) -> None:
    """The tokens of a prompt before a cut, on average over the places of a stream."""
    lengths = Lengths(isl=tuple(i for i, _ in pairs), osl=tuple(o for _, o in pairs))
    places = np.concatenate([np.arange(isl) + 0.5 for isl in lengths.isl])
    assert lengths.before == pytest.approx(places.mean())


@given(samples)
def test_groups_keep_the_means(pairs: list[tuple[int, int]]) -> None:
    """Strata have the tokens and pairs of the sample, and all its requests."""
    lengths = Lengths(isl=tuple(i for i, _ in pairs * 20), osl=tuple(o for _, o in pairs * 20))
    tokens, squares, share = lengths.strata
    assert share.sum() == pytest.approx(1.0)
    assert tokens @ share == pytest.approx(lengths.mean_isl)
    assert squares @ share == pytest.approx(lengths.pairs)


def test_a_large_sample_costs_no_more_points(dense: Platform) -> None:
    """As many points for 4,000 requests as for 400 like them."""
    few, many = (
        collect(kind(Space(platform=dense, lengths=each, worker_gpus=2, max_batch=64)))
        for kind in (prefill_points,)
        for each in (drawn(400), drawn(4000))
    )
    assert len(few) == len(many)


def simulated(platform: Platform, pools: tuple[Pool, ...], times: int) -> RunRecord:
    """Run pools on the sample so often, in any order, all there from the start."""
    order = np.random.default_rng(1).permutation(np.tile(np.arange(len(LENGTHS.isl)), times))
    deployment = Deployment(
        model=platform.model,
        gpu=platform.gpu,
        fabric=platform.fabric,
        latency=platform.latency,
        pools=pools,
        transfer=Transfer(messages="request"),  # links to spare
    )
    traffic = Traffic(
        arrival_s=np.zeros(len(order)),
        input_tokens=np.array(LENGTHS.isl, np.int32)[order],
        output_tokens=np.array(LENGTHS.osl, np.int32)[order],
    )
    return run(deployment, traffic, RunOptions())


def steady(times: np.ndarray) -> float:  # type: ignore[type-arg]
    """Return events/s of the middle half of the moments."""
    ends = np.sort(times)
    low, high = len(ends) // 4, 3 * len(ends) // 4
    return float((high - low) / (ends[high] - ends[low]))


def pool(platform: Platform, role: str, layout: Layout, **batching: object) -> Pool:
    """Return one worker."""
    return Pool(
        role=role,
        workers=1,
        layout=layout,
        precision=platform.precision,
        batching=Batching(**batching),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("layout", "chunk"), [(Layout(), 2048), (Layout(pp=2), 4096), (Layout(tp=2), 512)]
)
def test_packed_prompts_keep_the_pace(dense: Platform, layout: Layout, chunk: int) -> None:
    """A prefill worker with a token budget computes what its point says, within 1 %."""
    space = Space(platform=dense, lengths=LENGTHS, layouts=(layout,), chunks=(chunk,))
    (point,) = collect(prefill_points(space)).to_dicts()
    plenty = pool(dense, "decode", Layout(tp=4), max_num_seqs=4096)
    prefill = pool(
        dense, "prefill", layout, max_num_batched_tokens=chunk, max_num_seqs=point["batch"] * 8
    )
    record = simulated(dense, (prefill, plenty), 10)
    assert steady(record.requests["prefill_end_s"]) == pytest.approx(point["rate"], rel=0.01)


@pytest.mark.parametrize(
    ("name", "layout", "seats"), [("dense", Layout(), 64), ("experts", DEP, 32)]
)
def test_decodes_of_many_lengths_keep_the_pace(
    name: str, layout: Layout, seats: int, request: pytest.FixtureRequest
) -> None:
    """A full decode worker serves what its point says, within 2 %."""
    platform: Platform = request.getfixturevalue(name)
    space = Space(platform=platform, lengths=LENGTHS, layouts=(layout,))
    batch = seats * layout.attention_dp
    (point,) = collect(decode_points(space)).filter(batch=batch).to_dicts()
    decode = pool(platform, "decode", layout, max_num_seqs=batch, reserve="full")
    plenty = pool(platform, "prefill", layout, max_num_batched_tokens=65536, max_num_seqs=512)
    many = Pool(
        **{name: getattr(plenty, name) for name in ("role", "layout", "precision", "batching")},
        workers=8,
    )
    record = simulated(platform, (many, decode), 6 + 2 * layout.attention_dp)
    decoded = record.requests["finish_s"][record.requests["output_tokens"] > 1]
    share = len(decoded) / len(record.requests["finish_s"])
    assert steady(decoded) == pytest.approx(share * point["rate"], rel=0.02)


@pytest.mark.parametrize(("chunk", "batch"), [(512, 24), (2048, 16)])
def test_prompts_of_many_lengths_ride_along(dense: Platform, chunk: int, batch: int) -> None:
    """A full mixed worker serves at least what its point says, within 6 %, and not far more.

    The point cuts each prompt by itself; a full worker fills up steps with the next one's.
    """
    space = Space(platform=dense, lengths=LENGTHS, layouts=(Layout(tp=2),), chunks=(chunk,))
    points = collect(colocated_points(space)).filter(chunk=chunk, batch=batch)
    mixed = pool(
        dense,
        "mixed",
        Layout(tp=2),
        max_num_batched_tokens=chunk + batch,
        max_num_seqs=batch + 1,
        reserve="full",
    )
    rate = steady(simulated(dense, (mixed,), 4).requests["finish_s"])
    assert 0.94 * points["rate"][0] < rate < 1.15 * points["rate"][0]
