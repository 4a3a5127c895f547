"""The prefix cache equals one that goes block by block, and finds what whole traces share."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest
from builders import prompt_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_cache import PlainCache, named

from simulator.cluster.workers.cache import PrefixCache, Run
from simulator.cluster.workers.prompts import PromptBlocks, blocks_of
from simulator.errors import ConfigError
from workloads.readers import read_trace
from workloads.trace import RUN, Trace, TraceMeta, canonical_frame

TRACES = Path(__file__).parents[4] / "shared" / "traces"
needs_traces = pytest.mark.skipif(not TRACES.is_dir(), reason=f"no recorded traces at {TRACES}")


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[tuple[int, list[int]]], int]:
    """Return prompts out of a tree of cumulative ids, and the tokens of an id."""
    size = draw(st.integers(1, 6))
    numbers = {(): -1}
    prompts = []
    for _ in range(draw(st.integers(1, 8))):
        words = tuple(draw(st.lists(st.integers(0, 1), max_size=8)))
        starts = [words[:upto] for upto in range(1, len(words) + 1)]
        ids = [numbers.setdefault(start, len(numbers) - 1) for start in starts]
        tokens = max(1, len(ids) * size - draw(st.integers(0, size - 1)))
        prompts.append((tokens, ids))
    return prompts, size


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "compute", "compute", "let go", "answer", "fit"]),
        st.integers(0, 7),
        st.integers(0, 50),
    ),
    max_size=60,
)


@settings(max_examples=600)
@given(drawn=trees(), size=st.integers(1, 7), steps=steps, followers=st.randoms())
def test_equals_the_plain_cache(
    drawn: tuple[list[tuple[int, list[int]]], int],
    size: int,
    steps: list[tuple[str, int, int]],
    followers: Random,
) -> None:
    """Whatever is held, computed, let go of and dropped, in whatever order, both caches agree."""
    prompts, of_id = drawn
    blocks = prompt_blocks(
        prompts, of_id, [followers.randint(-1, len(prompts) - 1) for _ in prompts]
    )
    ours, plain = PrefixCache(blocks, size), PlainCache(blocks, size)
    running: set[int] = set()
    for what, which, amount in steps:
        request = which % len(prompts)
        tokens = prompts[request][0]
        if what == "take" and request not in running:
            running.add(request)
            found, seen = ours.find(request, tokens), plain.find(request, tokens)
            assert (found.blocks, found.idle) == (seen.blocks, seen.idle)
            ours.hold(request, found)
            plain.hold(request, seen)
        elif what == "compute" and request in running:
            assert ours.computed(request, amount) == plain.computed(request, amount)
        elif what in ("let go", "answer") and request in running:
            running.remove(request)
            if what == "answer":
                assert ours.goes_on(request, amount) == plain.goes_on(request, amount)
                check_tree(ours)
            assert ours.release(request) == plain.release(request)
        elif what == "fit":
            ours.fit(amount % 13)
            plain.fit(amount % 13)
        assert (ours.idle, ours.evicted) == (plain.idle, plain.evicted)
        assert all(ours.shared(each) == plain.shared(each) for each in range(len(prompts)))
        check_tree(ours)
    for request in range(len(prompts)):
        one, other = ours.find(request, 1000), plain.find(request, 1000)
        assert (one.blocks, one.idle) == (other.blocks, other.idle)


def check_tree(cache: PrefixCache) -> None:
    """Look through all runs: their blocks, their users and what is idle are what is counted."""
    ends = [(held.run, held.blocks) for held in cache._held.values()]
    idle, stack = 0, [cache._root]
    while stack:
        run: Run = stack.pop()
        stack += run.below.values()
        for (begin, name), below in run.below.items():
            assert (below.name, below.begin, below.above) == (name, begin, run)
            assert run.begin < begin <= run.end or run is cache._root
        if run is cache._root:
            continue
        users = Counter(upto for each, upto in ends if each is run)
        users.update(below.begin for below in run.below.values() if below.held > below.begin)
        assert run.users == users
        assert run.begin <= run.held == max(users, default=run.begin) <= run.end > run.begin
        idle += run.end - run.held
        check_parts(run)
    assert idle == cache.idle


def check_parts(run: Run) -> None:
    """Look through a run's idle parts: towards its begin, and above it, they are ever younger."""
    starts, stamps = [start for start, _ in run.idle], [stamp for _, stamp in run.idle]
    assert starts == sorted(set(starts), reverse=True)
    assert (starts[-1] if starts else run.end) == run.held
    assert not starts or starts[0] < run.end
    assert stamps == sorted(set(stamps))
    above = run.above
    if stamps and above is not None and above.held < run.begin:
        assert stamps[-1] <= next(stamp for start, stamp in above.idle if start < run.begin)


@given(drawn=trees(), size=st.integers(1, 9))
def test_paths_name_blocks_as_single_ids_do(
    drawn: tuple[list[tuple[int, list[int]]], int], size: int
) -> None:
    """Two blocks at one place have the same name if and only if the ids of their ends are one."""
    prompts, of_id = drawn
    blocks = prompt_blocks(prompts, of_id)
    known: dict[tuple[int, int], set[int]] = {}
    for request in range(len(prompts)):
        path, single = blocks.path(request, size), named(blocks, request, size)
        assert (path[-1][0] if path else 0) == len(single)
        for at, block in single:
            name = next(name for end, name in path if at < end)
            known.setdefault((at, name), set()).add(block)
    assert all(len(ids) == 1 for ids in known.values())
    assert len({(at, *ids) for (at, _), ids in known.items()}) == len(known)


def test_sizes_that_do_not_divide() -> None:
    """A block across two ids is known by the second; a prompt's last, partial one has no name."""
    blocks = prompt_blocks([(10, [4, 5, 9]), (12, [4, 5, 6])], 4)
    assert blocks.path(0, 3) == ((2, 4), (3, 7))
    assert blocks.path(0, 8) == ((1, 4),)
    assert blocks.path(0, 11) == ()
    assert blocks.path(1, 3) == ((4, 4),)


@pytest.mark.parametrize(
    ("prompts", "size", "told"),
    [
        ([(8, [1, 2])], 0, "block_size must be at least 1 token but got 0"),
        ([(8, [-1])], 4, "a run needs a first id of at least 0"),
    ],
)
def test_what_cannot_be_is_told(prompts: list[tuple[int, list[int]]], size: int, told: str) -> None:
    """No block size or negative ids end in one sentence."""
    with pytest.raises(ConfigError, match=told):
        prompt_blocks(prompts, size)


def test_ids_beyond_a_prompt_name_nothing() -> None:
    """A prompt that was cut off has the blocks of what is left of it."""
    assert prompt_blocks([(7, [1, 2, 3])], 4).path(0, 2) == ((3, 1),)


def test_starts_must_fit() -> None:
    """Every request has its runs."""
    with pytest.raises(ConfigError, match="starts must rise"):
        PromptBlocks(
            block_size=1,
            starts=np.array([0, 2]),
            first=np.array([1]),
            count=np.array([1]),
            tokens=np.array([5], np.int32),
        )


def unlimited(trace: Trace, size: int) -> tuple[int, int]:
    """Return what a cache without bounds has of all prompts, one after the other, in tokens.

    First as if whole prompts could be found, then with the last token of each computed.
    """
    blocks = blocks_of(trace)
    assert blocks is not None
    cache, whole, found = PrefixCache(blocks, size), 0, 0
    for request, tokens in enumerate(trace.column("input_tokens").tolist()):
        whole += size * cache.find(request, tokens + 1).blocks
        seen = cache.find(request, tokens)
        found += size * seen.blocks
        cache.hold(request, seen)
        cache.computed(request, tokens)
        cache.release(request)
    assert cache.evicted == 0
    return whole, found


def test_an_answer_is_found_by_the_turn_after_it() -> None:
    """What was generated goes by the next turn's ids, a last partial id's blocks as well."""
    # A prompt of 25 tokens in ids of 10, the last of them partial; its answer is of 20.
    blocks = prompt_blocks([(25, [0, 1, 2]), (55, [0, 1, 3, 4, 5, 6])], 10, [1, -1])
    cache = PrefixCache(blocks, 5)
    cache.hold(0, cache.find(0, 25))
    cache.computed(0, 25)
    assert cache.find(1, 55).blocks == 4  # ids 0 and 1
    assert cache.goes_on(0, 44) == 0
    assert cache.find(1, 55).blocks == 8  # 44 of 45 tokens have KV: the last block is not whole
    cache.release(0)
    assert (cache.idle, cache.find(0, 25).blocks) == (8, 4)


def test_who_follows_whom() -> None:
    """A child that goes on from prompt and answer follows; one too short, or of other ids, not."""
    runs = [[(0, 2)], [(0, 2), (7, 2)], [(0, 1)], [(0, 2), (9, 9)], [(0, 1), (5, 1)], []]
    rows = {
        "arrival_s": [0.0] * 6,
        "input_tokens": [20, 40, 29, 130, 20, 30],
        "output_tokens": [10] * 6,
        "parent_id": [None, 0, 0, 1, 1, 4],
        "block_runs": [[{"first": first, "n": n} for first, n in row] for row in runs],
    }
    frame = canonical_frame(pl.DataFrame(rows, schema_overrides={"block_runs": pl.List(RUN)}))
    meta = TraceMeta(name="six", format="test", block_size=10, rows_read=6, rows_kept=6)
    blocks = blocks_of(Trace(frame, meta))
    assert blocks is not None
    assert blocks.follower is not None
    assert blocks.follower.tolist() == [1, -1, -1, -1, -1, -1]
    with pytest.raises(ConfigError, match="follower must be said of every request"):
        replace(blocks, follower=blocks.follower[1:])


@needs_traces
def test_whole_trace_hit_rate() -> None:
    """Of Mooncake's synthetic trace 65.12 % of the prompt tokens were there before."""
    trace = read_trace(TRACES / "mooncake_synthetic.jsonl")
    tokens = trace.column("input_tokens").sum(dtype=np.int64)
    whole, found = unlimited(trace, 1)
    assert whole / tokens == pytest.approx(0.6512, abs=5e-5)
    assert 0 <= whole - found <= len(trace)  # a token each, at most


@needs_traces
@pytest.mark.parametrize("name", ["mooncake_synthetic", "mooncake_conversation_first5min"])
@pytest.mark.parametrize("size", [64, 512])
def test_trace_hits_equal_those_of_single_ids(name: str, size: int) -> None:
    """Runs find what a set of single ids finds, in blocks that divide an id and in whole ids."""
    trace = read_trace(TRACES / f"{name}.jsonl")
    seen: set[tuple[int, int]] = set()
    hits = 0
    for row in trace.frame.select("input_tokens", "block_runs").iter_rows():
        tokens, runs = row
        ids = [run["first"] + at for run in runs for at in range(run["n"])]
        blocks = [(each, at) for each in ids for at in range(512 // size)][: tokens // size]
        missing = (at for at, block in enumerate(blocks) if block not in seen)
        hits += size * next(missing, len(blocks))
        seen.update(blocks)
    assert unlimited(trace, size)[0] == hits


@needs_traces
def test_ids_of_a_session_are_its_own() -> None:
    """Where ids are local to sessions, equal ones of two sessions are other blocks."""
    trace = read_trace(TRACES / "mooncake_conversation_first5min.jsonl")
    rows = [{"first": 0, "n": 2}]
    frame = trace.frame.head(4).with_columns(
        block_runs=pl.Series([rows] * 4, dtype=trace.frame.schema["block_runs"]),
        session_id=pl.Series([0, 1, 0, None], dtype=pl.UInt32),
        input_tokens=pl.lit(1024, pl.Int32),
    )
    meta = replace(trace.meta, rows_read=4, rows_kept=4, tokens_read=None, dropped_tokens={})
    paths = []
    for scope in ("global", "session"):
        blocks = blocks_of(Trace(frame, replace(meta, block_scope=scope)))
        assert blocks is not None
        paths.append([blocks.path(request, 16) for request in range(4)])
    assert len(set(paths[0])) == 1
    assert paths[1][0] == paths[1][2]
    assert len(set(paths[1])) == 3
    with pytest.raises(ConfigError, match="block_runs has ids, but block_size"):
        blocks_of(Trace(frame, replace(meta, block_size=None)))
    bare = frame.with_columns(block_runs=pl.lit(None, trace.frame.schema["block_runs"]))
    assert blocks_of(Trace(bare, meta)) is None


def test_who_hears_what_makes_room_hears_of_a_way_once() -> None:
    """Two prompts of three hundred tokens that part after two hundred: two ways, not their stem."""
    blocks = prompt_blocks([(300, [0, 1, 2]), (300, [0, 1, 3])], 100)
    cache, heard = PrefixCache(blocks, 100), []
    for request in (0, 1):
        cache.hold(request, cache.find(request, 301))
        cache.computed(request, 300)
    for request in (0, 1):
        cache.release(request)
    cache.evicts = heard.append
    cache.fit(0)
    assert cache.evicted == 4
    assert heard == [blocks.path(0, 100), blocks.path(1, 100)]
