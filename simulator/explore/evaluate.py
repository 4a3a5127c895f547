"""Every design point of a space in steady state: prefill, decode and co-located workers.

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

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.explore.costs import Costs, Room, Step
from simulator.explore.ranks import Sizes, at_once, groups_of, side_by_side
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

    def frame(self, where: NDArray[np.bool_]) -> pl.DataFrame:
        """Return the points ``where`` they fit, with their layout."""
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
    return _each_layout(space, costs, progress, kinds)


def decode_points(
    space: Space, costs: Costs | None = None, progress: OnProgress | None = None
) -> Frames:
    """Yield the decode points of each layout: every batch that fits, for every number of drafts.

    A batch fits with its sequences' whole KV; drafts are taken to hold none beside it.
    """
    return _each_layout(space, costs, progress, (_decode,))


def colocated_points(
    space: Space, costs: Costs | None = None, progress: OnProgress | None = None
) -> Frames:
    """Yield the points of workers that do both, with and without piggybacking.

    Without (``chunk`` 0), whole prompts stall the batch: per generation of a full batch every
    sequence's prompt is computed once. With it, a share of the steps carries a chunk beside the
    decodes, just often enough to replace what finishes.
    """
    return _each_layout(space, costs, progress, (_stalled, _piggybacked))


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


def _each_layout(
    space: Space,
    costs: Costs | None,
    progress: OnProgress | None,
    kinds: tuple[Callable[[Space, Costs, Layout], Frames], ...],
) -> Frames:
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
    seats = _Seats.of(space, layout)
    room = Room.find(costs, layout, Step(role="decode"), seats.least, space.max_batch)
    if room is None:
        return
    batch = space.batches(room.last)
    in_flight, fits = batch * layout.attention_dp * layout.pp, seats.fit(room, batch)
    mean, tail = _decode_loads(space, layout, batch)
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
class _Seats:
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
    def of(cls, space: Space, layout: Layout) -> "_Seats":
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


def _decode_loads(space: Space, layout: Layout, batch: Floats) -> tuple[Load, Load | None]:
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


# --- co-located -------------------------------------------------------------------------------


def _stalled(space: Space, costs: Costs, layout: Layout) -> Frames:
    """Prompts computed whole between decode steps, up to ``p`` at a time and rank, ``b`` decoding.

    None waits for others to gather: a stall computes the prompts for whose seats a decode step has
    ended sequences.
    """
    lengths, seats, fewer = space.lengths, _Seats.of(space, layout), 0
    for prompts in space.prompt_batches:
        largest = max(max(lengths.isl), round(prompts * lengths.mean_isl))
        step = Step(role="mixed", fixed=largest, each=1)
        room = Room.find(costs, layout, step, seats.least, space.max_batch)
        if room is None:
            break
        worker = layout, room.memory
        batch = space.batches(room.last)
        stalls = _stalls(space, costs, worker, (batch, prompts, fewer))
        fits = seats.fit(room, batch) & stalls.distinct
        fewer = prompts
        mean, unlucky = _decode_loads(space, layout, batch)
        for drafts in space.draft_tokens:
            decode = costs.seconds(*worker, mean, drafts)
            over = 0.0 if unlucky is None else costs.seconds(*worker, unlucky, drafts) - decode
            # A sequence's own stall is before its first token.
            seen = np.maximum(stalls.rate - 1.0 / lengths.steps, 0.0)
            tpot = decode + stalls.seconds * seen
            varies = space.deviations**2 * seen * stalls.square * lengths.brevity
            cycle = stalls.seconds + tpot * lengths.steps
            gap = decode + stalls.seconds * stalls.run
            held_up = stalls.rate * stalls.seconds
            slow, busy = tpot + np.sqrt(over**2 + varies), held_up / (decode + held_up)
            times = _Times(stalls.own, tpot, slow, gap, busy)
            columns = _colocated_columns(space, layout, batch, (0, times, cycle))
            alike = {"draft_tokens": drafts, "prompts": prompts}
            yield Points(*worker, columns, alike).frame(fits)


class _Stalls(NamedTuple):
    """Decodes held up by prompts: ``rate`` stalls an iteration, of ``seconds`` (mean) each.

    ``square`` is the mean of its square, ``own`` the stall of the prompt whose TTFT counts, and
    ``run`` how many follow each other where there are any. Points that a smaller number of prompts
    at a time has too are not ``distinct``.
    """

    rate: Floats
    run: Floats
    seconds: Floats
    square: Floats
    own: Floats
    distinct: NDArray[np.bool_]


def _stalls(
    space: Space, costs: Costs, worker: tuple[Layout, Memory], sizes: tuple[Floats, int, int]
) -> _Stalls:
    """Return the stalls of batches by up to so many prompts a rank (and microbatch), and not fewer.

    Sequences end at random: a Poisson number in an iteration. As many prompts are dealt out evenly
    over the ranks and computed in one stall, or in several where one got more than ``prompts``.
    """
    (batch, prompts, fewer), (layout, _) = sizes, worker
    lengths, ranks, stages = space.lengths, layout.attention_dp, layout.pp
    ended = ranks * stages * batch / lengths.steps
    rate = groups_of(ranks * stages * prompts, ended)
    most = groups_of(ranks, ended) / rate  # prompts on the fullest rank
    each = ended / ranks / rate
    tokens, _, share = lengths.strata
    longest = Sizes(tokens, share).fullest(np.clip(ended / rate, 1.0, ranks))
    fullest = most * lengths.mean_isl + longest - lengths.mean_isl
    load = Load(
        tokens=fullest / stages,
        pairs=fullest * lengths.pairs / lengths.mean_isl / stages,
        prompts=most / stages,
        occupied=each * lengths.mean_isl / fullest,
    )
    seconds = costs.seconds(*worker, load)
    spread = (tokens**2 @ share) / lengths.mean_isl**2 - 1.0
    square = seconds**2 * (1.0 + spread / np.maximum(ended / rate, 1.0))
    own = np.maximum(seconds, _unlucky_stall(space, costs, worker))
    before = groups_of(ranks * stages * fewer, ended) if fewer else np.full_like(rate, np.inf)
    run = rate / -np.expm1(-ended)
    return _Stalls(rate, run, seconds, square, own, before > 1.001 * rate)


def _unlucky_stall(space: Space, costs: Costs, worker: tuple[Layout, Memory]) -> float:
    """Return the seconds that the prompt whose TTFT counts takes alone."""
    isl = float(space.lengths.prompt(space.attainment))
    load = Load(tokens=isl, pairs=isl * (isl + 1.0) / 2.0, prompts=1.0)
    return float(costs.seconds(*worker, load)[0])


class _Mix(NamedTuple):
    """How prompts ride on decode steps, by their chunks of up to ``chunk`` tokens a rank.

    ``pieces`` are the steps of a request that carry its prompt, below 1 where several share one,
    and ``run`` the successive ones an arbitrary such step is among. ``load`` is a chunk's and
    ``sizes`` are theirs; ``own_pieces`` and ``own`` are those of the prompt whose TTFT counts.
    """

    chunk: int
    pieces: float
    run: float
    load: Load
    own_pieces: float
    own: Load
    sizes: Sizes

    @property
    def prompts(self) -> float:
        """Prompts in one step."""
        return float(self.load.prompts)


def _piggybacked(space: Space, costs: Costs, layout: Layout) -> Frames:
    """Let a share of the steps of ``b`` decodes carry a chunk of ``c`` prompt tokens a rank.

    A batch that finishes ``b / steps`` requests an iteration needs their prompts' chunks; a chunk
    too small for that cannot keep the batch full and is left out. A chunk of several prompts
    gathers them as :func:`_stalled` does. Attention ranks take theirs as seats fall free, each in
    its time (:mod:`simulator.explore.ranks`).
    """
    lengths, seats = space.lengths, _Seats.of(space, layout)
    for mix in _mixes(space):
        step = Step(role="mixed", fixed=mix.chunk, each=1)
        most = min(space.max_batch, int(lengths.steps / mix.pieces * (1.0 + 1e-12)))
        if most < 1:
            continue
        room = Room.find(costs, layout, step, seats.least, most)
        if room is None:
            break
        worker = layout, room.memory
        batch = space.batches(room.last)
        share = batch * mix.pieces / lengths.steps
        fits = seats.fit(room, batch, mix.prompts) & (share <= 1.0) & (batch >= mix.prompts)
        together, load = _on_ranks(mix, layout, share)
        mean, unlucky = _decode_loads(space, layout, batch)
        for drafts in space.draft_tokens:
            mixed = costs.seconds(*worker, _beside(load, mean), drafts)
            alone = costs.seconds(*worker, mean, drafts)
            over = 0.0 if unlucky is None else costs.seconds(*worker, unlucky, drafts) - alone
            own = mixed
            if lengths.varied:
                own = costs.seconds(*worker, _beside(mix.own, mean), drafts)
                own = own if layout.attention_dp == 1 else np.maximum(own, mixed)
            tpot = together * mixed + (1.0 - together) * alone
            varies = together * (1.0 - together) * mix.run * lengths.brevity * (mixed - alone) ** 2
            slow = tpot + np.sqrt(over**2 + space.deviations**2 * np.maximum(varies, 0.0))
            cycle = tpot * lengths.steps
            ttft = mix.own_pieces * own + (mix.prompts - 1.0) / 2.0 * cycle / batch
            busy = np.minimum(share * mixed / tpot, 1.0)
            times = _Times(ttft, tpot, np.minimum(slow, mixed + over), mixed, busy)
            columns = _colocated_columns(space, layout, batch, (mix.chunk, times, cycle))
            alike = {"draft_tokens": drafts, "prompts": 0}
            yield Points(*worker, columns, alike).frame(fits)


def _on_ranks(mix: _Mix, layout: Layout, share: Floats) -> tuple[Floats, Load]:
    """Return the share of steps with any chunk, and what the fullest rank then works on.

    ``share`` of its steps carry one on each rank.
    """
    ranks = layout.attention_dp
    if ranks == 1:
        return share, mix.load
    busy, together = at_once(ranks, share)
    return busy, side_by_side(mix.load, mix.sizes, ranks, together)


def _mixes(space: Space) -> list[_Mix]:
    """Return the prompt tokens per mixed step to try: chunks, and whole prompts."""
    lengths, smaller = space.lengths, (64, 128, 256, *space.chunks)
    if lengths.varied:
        longest = max(lengths.isl)
        cut = sorted({*(chunk for chunk in smaller if chunk < longest), longest})
        return [_varied_mix(space, chunk) for chunk in cut]
    isl = lengths.isl[0]
    whole = [isl * prompts for prompts in space.prompt_batches if isl * prompts <= max(smaller)]
    chunks = sorted({*(chunk for chunk in smaller if chunk < isl), *whole, isl})
    return [_constant_mix(isl, chunk) for chunk in chunks]


def _constant_mix(isl: int, chunk: int) -> _Mix:
    """Return equal prompts in chunks: the means over a prompt's, or several prompts in each."""
    load = Load(
        tokens=float(chunk),
        pairs=chunk * (isl + 1.0) / 2.0,
        past=max(isl - chunk, 0.0) / 2.0,
        prompts=max(1.0, chunk / isl),
    )
    most = max(1.0, isl / chunk)
    alike = Sizes(np.array([float(chunk)]), np.ones(1))
    return _Mix(chunk, isl / chunk, most, load, most, load, alike)


def _varied_mix(space: Space, chunk: int) -> _Mix:
    """Return prompts of many lengths, each cut by itself: the means over all their chunks."""
    lengths, isl = space.lengths, float(space.lengths.prompt(space.attainment))
    pieces, own = lengths.pieces(chunk), math.ceil(isl / chunk)
    return _Mix(
        chunk=chunk,
        pieces=pieces.mean,
        run=pieces.square / pieces.mean,
        load=Load(
            tokens=lengths.mean_isl / pieces.mean,
            pairs=lengths.pairs / pieces.mean,
            past=pieces.earlier / pieces.mean,
            prompts=1.0,
        ),
        own_pieces=float(own),
        own=Load(
            tokens=isl / own,
            pairs=isl * (isl + 1.0) / 2.0 / own,
            past=chunk * (own - 1.0) / 2.0,
            prompts=1.0,
        ),
        sizes=Sizes(*lengths.cuts(chunk)),
    )


def _beside(chunk: Load, decodes: Load) -> Load:
    """Return a step of a chunk beside decodes."""
    return chunk._replace(batch=decodes.batch, context=decodes.context)


class _Times(NamedTuple):
    """Of co-located points: seconds to the first token, per token, its tail, and the longest gap.

    ``busy`` is the share of the time in which steps compute prompts.
    """

    ttft: Floats
    tpot: Floats
    tail: Floats
    gap: Floats
    busy: Floats


def _colocated_columns(
    space: Space, layout: Layout, batch: Floats, costed: tuple[int, _Times, Floats]
) -> dict[str, Floats]:
    """Return the columns of points with chunks of so many tokens, their times, and their cycle.

    That is how long a sequence keeps its seat in the batch.
    """
    chunk, times, cycle = costed
    in_flight = batch * layout.attention_dp * layout.pp
    steady = 0.0 if space.longest_gap is None else times.gap / space.longest_gap
    return {
        "batch": in_flight,
        "chunk": np.full(1, chunk),
        "ttft_s": times.ttft,
        "tpot_s": times.tpot,
        "tpot_tail_s": times.tail,
        "gap_s": times.gap,
        "pace_s": np.maximum(times.tpot, steady),
        "busy": times.busy,
        "rate": in_flight / cycle,
    }
