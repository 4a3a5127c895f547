"""The design points of a space in steady state: what prefill and decode workers do.

Each yields one frame per layout, so memory stays bounded however large the space; what does not
fit its GPUs is not there. A worker's columns:

* ``tp, pp, ep, attention_dp, gpus``: its layout;
* ``batch``: sequences (prompts, for prefill) in flight over all its ranks and stages;
* ``chunk``: prompt tokens per step and attention rank, 0 where prompts are computed whole;
* ``ttft_s``: seconds of a prompt that waits for none but those computed with it; of a sample of
  lengths, of the prompt longer than ``attainment`` of them; ``tpot_s``: mean seconds per output
  token, and ``tpot_tail_s``: what ``attainment`` of the requests stay below;
* ``gap_s``: the longest seconds between a user's tokens, of co-located workers those of a step
  that computes prompts too; ``pace_s``: the greater of TPOT and ``gap_s / longest_gap``;
* ``draft_tokens``: tokens a decode step drafts per sequence (not for prefill, which drafts none);
* ``prompts``: of a co-located worker, those a rank computes at a time while its decodes wait, 0
  where they ride on decode steps;
* ``rate``: requests/s of the worker; ``busy``: the share of the time that a co-located worker's
  steps compute prompts then; ``kv_gpus``: its GPUs that hold distinct shards of KV.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.explore.costs import Costs, Room, Step
from simulator.explore.space import Floats, Lengths, Space
from simulator.latency.passes import Load
from simulator.layout import Layout, Memory

SAFE = 2.0
"""Standard deviations of what a batch's sequences hold that must fit above the mean."""

OnProgress = Callable[[int, int, int], None]
"""Called after each layout with layouts done, layouts in all, and points so far."""

Frames = Iterator[pl.DataFrame]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """One layout's points as columns of equal length; ``alike`` are those with one whole number."""

    layout: Layout
    memory: Memory
    columns: dict[str, Floats]
    alike: dict[str, int] = field(default_factory=dict)

    def frame(self, where: NDArray[np.bool_] | None = None) -> pl.DataFrame:
        """Return the points ``where`` they fit (``None``: all do), with their layout."""
        if where is None:
            where = np.ones(max(map(len, self.columns.values())), np.bool_)
        layout, size = self.layout, int(where.sum())
        named = {
            "tp": layout.tp,
            "pp": layout.pp,
            "ep": layout.ep,
            "attention_dp": layout.attention_dp,
            "gpus": layout.gpus,
            "kv_gpus": self.memory.kv_shards * layout.attention_dp,
            **self.alike,
        }
        constants = {name: np.full(size, value, np.int64) for name, value in named.items()}
        whole = {"batch": np.int64, "chunk": np.int64}
        kept = slice(None) if size == len(where) else where  # most often all fit: spare the copy
        columns = {
            name: np.broadcast_to(column, where.shape)[kept].astype(
                whole.get(name, np.float64), copy=False
            )
            for name, column in self.columns.items()
        }
        return pl.DataFrame(constants | columns)


def prefill_points(
    space: Space, costs: Costs | None = None, progress: OnProgress | None = None
) -> Frames:
    """Yield the prefill points of each layout.

    ``rate`` counts the prompts a pipeline has in flight, so it is batch / TTFT where nothing is
    chunked. Chunks follow each other through the stages (arXiv 2506.05508, CPP): see
    :func:`chunked_seconds`. Prompts of several lengths are packed into steps of ``chunk`` tokens.
    """
    varied = space.lengths.varied
    kinds = (_packed_prompts,) if varied else (_whole_prompts, _chunked_prompts)
    return each_layout(space, costs, progress, kinds)


def decode_points(
    space: Space, costs: Costs | None = None, progress: OnProgress | None = None
) -> Frames:
    """Yield the decode points of each layout: every batch that fits, for every number of drafts.

    A batch fits with its sequences' whole KV; drafts are taken to hold none beside it.
    """
    return each_layout(space, costs, progress, (_decode,))


def collect(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return all points in one frame (empty and without columns if there are none)."""
    every = [frame for frame in frames if len(frame)]
    return pl.concat(every, rechunk=True) if every else pl.DataFrame()


def gathered(frames: Iterable[pl.DataFrame], rows: int = 100_000) -> Frames:
    """Yield the same points in frames of at least ``rows``, but for the last."""
    kept: list[pl.DataFrame] = []
    held = 0
    for frame in frames:
        kept.append(frame)
        held += len(frame)
        if held >= rows:
            yield collect(kept)
            kept, held = [], 0
    if held:
        yield collect(kept)


def chunked_seconds(seconds: Floats, stages: int) -> tuple[float, float]:
    """Return the time through a pipeline of successive chunks, and between two such prompts.

    ``seconds`` are the chunks' own, through all stages. Chunk i spends ``t_i / stages`` in each
    stage and follows its predecessor, so the last leaves after ``Σ t_i / stages`` plus the bubble
    of filling the other stages at the pace of the slowest chunk, ``(stages − 1)/stages · max t``.
    """
    between = float(seconds.sum()) / stages
    return between + (stages - 1) / stages * float(seconds.max()), between


def chunk_sizes(tokens: int, chunk: int) -> NDArray[np.int64]:
    """Return the tokens of each chunk of a prompt: full ones, then the rest."""
    full, rest = divmod(tokens, chunk)
    return np.array([chunk] * full + [rest] * bool(rest), np.int64)


def each_layout(
    space: Space,
    costs: Costs | None,
    progress: OnProgress | None,
    kinds: tuple[Callable[[Space, Costs, Layout], Frames], ...],
) -> Frames:
    """Yield the frames of these kinds of points, layout by layout."""
    costs = costs or Costs(space.platform)
    points = 0
    for done, layout in enumerate(space.layouts, start=1):
        for kind in kinds:
            for frame in kind(space, costs, layout):
                points += len(frame)
                yield frame
        if progress is not None:
            progress(done, len(space.layouts), points)


# --- prefill ----------------------------------------------------------------------------------


def _whole_prompts(space: Space, costs: Costs, layout: Layout) -> Frames:
    """Prompts in one pass: a batch per rank, one batch per stage in flight."""
    longest = max(space.lengths.isl)
    need = layout.pp * costs.blocks(longest)
    most = max(space.prompt_batches)
    room = Room.find(costs, layout, Step(role="prefill", each=longest), need, most)
    if room is None:
        return
    batch = np.array([b for b in space.prompt_batches if b <= room.last], np.float64)
    if not len(batch):
        return
    seconds = _prompt_seconds(space.lengths, costs, (layout, room.memory), batch)
    in_flight = batch * layout.attention_dp * layout.pp
    columns = {
        "batch": in_flight,
        "chunk": np.zeros(1),
        "ttft_s": seconds,
        "rate": in_flight / seconds,
    }
    yield Points(layout, room.memory, columns).frame(room.fits(batch, batch * need))


def _prompt_seconds(
    lengths: Lengths, costs: Costs, worker: tuple[Layout, Memory], batch: Floats
) -> Floats:
    """Return mean seconds of a pass of ``batch`` prompts a rank, over the sampled lengths."""
    tokens, pairs, share = lengths.strata
    load = Load(
        tokens=np.multiply.outer(batch, tokens).ravel(),
        pairs=np.multiply.outer(batch, pairs).ravel(),
        prompts=np.repeat(batch, len(tokens)),
    )
    mean: Floats = costs.seconds(*worker, load).reshape(len(batch), len(tokens)) @ share
    return mean


def _chunked_prompts(space: Space, costs: Costs, layout: Layout) -> Frames:
    """One prompt per rank at a time, in chunks that follow each other through the stages."""
    longest = max(space.lengths.isl)
    for chunk in space.chunks:
        if chunk >= longest:
            continue
        memory = costs.plan(layout, "prefill", chunk, 1)
        chunks = len(chunk_sizes(longest, chunk))
        in_flight = 1 - (1 - layout.pp) // chunks  # one begins as another ends
        if memory is None or not _holds(memory, layout, in_flight * costs.blocks(longest)):
            continue
        seconds, between = _chunked_prompt(longest, costs, (layout, memory), chunk)
        columns = {
            "batch": np.full(1, in_flight * layout.attention_dp),
            "chunk": np.full(1, chunk),
            "ttft_s": np.full(1, seconds),
            "rate": np.full(1, layout.attention_dp / between),
        }
        yield Points(layout, memory, columns).frame(np.ones(1, np.bool_))


def _chunked_prompt(
    isl: int, costs: Costs, worker: tuple[Layout, Memory], chunk: int
) -> tuple[float, float]:
    """Return seconds of a chunked prompt of ``isl`` tokens, and between two."""
    sizes = chunk_sizes(isl, chunk)
    tokens = sizes.astype(np.float64)
    past = np.cumsum(tokens) - tokens
    load = Load(
        tokens=tokens, pairs=tokens * past + tokens * (tokens + 1) / 2, past=past, prompts=1
    )
    return chunked_seconds(costs.seconds(*worker, load), worker[0].pp)


def _packed_prompts(space: Space, costs: Costs, layout: Layout) -> Frames:
    """Prompts of many lengths in steps of so many tokens a rank, cut wherever a step is full.

    That is a token budget with chunked prefill and prompts waiting: every step is full, begins
    anywhere within a prompt and ends so. A prompt is in as many steps as its tokens fill, and on
    average in one more, for it seldom begins with a step.
    """
    lengths = space.lengths
    chunks = np.array([c for c in space.chunks if _packs(lengths, costs, layout, c)], np.float64)
    if not len(chunks):
        return
    memory = costs.plan(layout, "prefill", int(chunks[0]), 1)
    assert memory is not None  # noqa: S101 - the chunk fits
    seconds = costs.seconds(layout, memory, packed_load(lengths, chunks))
    steps = lengths.prompt(space.attainment) / chunks + 1.0
    stages = layout.pp
    columns = {
        "batch": np.ceil(1.0 + chunks / lengths.mean_isl) * stages * layout.attention_dp,
        "chunk": chunks,
        "ttft_s": seconds * (steps + stages - 1.0) / stages,
        "rate": layout.attention_dp * stages * chunks / (lengths.mean_isl * seconds),
    }
    yield Points(layout, memory, columns).frame(np.ones(len(chunks), np.bool_))


def packed_load(lengths: Lengths, chunks: Floats) -> Load:
    """Return the mean load of full steps of ``chunks`` tokens, prompts cut wherever they end."""
    return Load(
        tokens=chunks,
        pairs=chunks * lengths.pairs / lengths.mean_isl,
        past=np.full(len(chunks), lengths.before),
        prompts=1.0 + chunks / lengths.mean_isl,
    )


def _packs(lengths: Lengths, costs: Costs, layout: Layout, chunk: int) -> bool:
    """Tell whether full steps of ``chunk`` tokens in every stage fit, and the longest prompt."""
    memory = costs.plan(layout, "prefill", chunk, 1)
    started = layout.pp * (1.0 + chunk / lengths.mean_isl)  # each may waste most of a block
    need = costs.blocks(layout.pp * chunk + max(lengths.isl)) + started
    return memory is not None and _holds(memory, layout, need)


def _holds(memory: Memory, layout: Layout, need: float) -> bool:
    return need <= memory.kv_blocks // layout.attention_dp


# --- decode -----------------------------------------------------------------------------------


def _decode(space: Space, costs: Costs, layout: Layout) -> Frames:
    """Batches of ``b`` sequences per rank and microbatch, ``pp`` microbatches in flight."""
    seats = Seats.of(space, layout)
    room = Room.find(costs, layout, Step(role="decode"), seats.least, space.max_batch)
    if room is None:
        return
    batch = space.batches(room.last)
    in_flight, fits = batch * layout.attention_dp * layout.pp, seats.fit(room, batch)
    mean, tail = decode_loads(space, layout, batch)
    for drafts in space.draft_tokens:
        seconds = costs.seconds(layout, room.memory, mean, drafts)
        slow = seconds if tail is None else costs.seconds(layout, room.memory, tail, drafts)
        columns = {
            "batch": in_flight,
            "tpot_s": seconds,
            "tpot_tail_s": slow,
            "gap_s": seconds,
            "pace_s": seconds,
            "rate": in_flight / (seconds * space.lengths.steps),
        }
        yield Points(layout, room.memory, columns, {"draft_tokens": drafts}).frame(fits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """KV blocks that the sequences of one attention rank set aside: all they will ever hold.

    ``mean`` and ``spread`` are of one sequence, ``longest`` of the longest, ``stages`` the
    microbatches in flight. As sequences come and go what a batch holds varies: :data:`SAFE`
    standard deviations above the mean must fit, and the longest sequence.
    """

    mean: float
    spread: float
    longest: int
    stages: int

    @classmethod
    def of(cls, space: Space, layout: Layout) -> "Seats":
        """Return what a space's sequences need of workers of this layout."""
        size, lengths = space.platform.block_size, space.lengths
        longest = -(-lengths.longest // size)
        return cls(
            **dict(zip(("mean", "spread"), lengths.blocks(size), strict=True)),
            longest=longest,
            stages=layout.pp,
        )

    @property
    def least(self) -> float:
        """Blocks of one more sequence in each microbatch."""
        return self.stages * self.mean

    def need(self, batch: Floats) -> Floats:
        """Return the blocks that batches of so many sequences a microbatch may come to need."""
        count = self.stages * batch
        need: Floats = np.maximum(
            count * self.mean + SAFE * self.spread * np.sqrt(count), self.longest
        )
        return need

    def fit(self, room: Room, batch: Floats, more: Floats | float = 0.0) -> NDArray[np.bool_]:
        """Return where such batches fit, beside ``more`` sequences that do not decode."""
        return room.fits(batch, self.need(batch + more))


def decode_loads(space: Space, layout: Layout, batch: Floats) -> tuple[Load, Load | None]:
    """Return the mean load of decode steps, and that of an unlucky request's, if it is another.

    A request decodes beside others with more or less context; over the worker's batch that
    averages out with the root of its size. What ``attainment`` of the requests stay below is taken
    as normal.
    """
    lengths = space.lengths
    mean = Load(batch=batch, context=batch * lengths.context)
    if not lengths.context_spread:
        return mean, None
    over = space.deviations * lengths.context_spread
    groups = layout.attention_dp * layout.pp
    return mean, mean._replace(context=mean.context + over * np.sqrt(batch / groups))
