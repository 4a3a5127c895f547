"""Workers that do both, in steady state: prompts stall their decodes or ride on them."""

import math
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from simulator.explore.costs import Costs, Room, Step
from simulator.explore.evaluate import (
    Frames,
    OnProgress,
    Points,
    Seats,
    decode_loads,
    each_layout,
)
from simulator.explore.ranks import Dealt, Ended, Sizes, at_once, side_by_side
from simulator.explore.remembered import Remembered
from simulator.explore.space import Floats, Space
from simulator.latency.passes import Load
from simulator.layout import Layout, Memory


def colocated_points(
    space: Space, costs: Costs | None = None, progress: OnProgress | None = None
) -> Frames:
    """Yield the points of workers that do both, with and without piggybacking.

    Without (``chunk`` 0), whole prompts stall the batch: per generation of a full batch every
    sequence's prompt is computed once. With it, a share of the steps carries a chunk beside the
    decodes, just often enough to replace what finishes.
    """
    ended = Ended(space.lengths.steps)

    def points(space: Space, costs: Costs, layout: Layout) -> Frames:
        alone = _Alone(space, costs, layout)
        yield from _stalled(space, costs, alone, ended)
        yield from _piggybacked(space, costs, alone)

    return each_layout(space, costs, progress, (points,))


class _Alone:
    """What a layout's workers do alone: the same beside every way of computing prompts."""

    def __init__(self, space: Space, costs: Costs, layout: Layout) -> None:
        self.layout = layout
        self._space, self._costs = space, costs
        self._decodes: defaultdict[tuple[int, bool], Remembered] = defaultdict(Remembered)
        self._prompt: float | None = None

    def decode(self, memory: Memory, batch: Floats, drafts: int) -> tuple[Floats, Floats | float]:
        """Return mean seconds of decode steps, and how much longer an unlucky request's take."""
        mean = self._decode(memory, batch, (drafts, False))
        if not self._space.lengths.context_spread:
            return mean, 0.0
        return mean, self._decode(memory, batch, (drafts, True)) - mean

    def _decode(self, memory: Memory, batch: Floats, kind: tuple[int, bool]) -> Floats:
        drafts, unlucky = kind

        def work(batch: Floats) -> Floats:
            load = decode_loads(self._space, self.layout, batch)[unlucky]
            assert load is not None  # noqa: S101 - asked for only where contexts differ
            return self._costs.seconds(self.layout, memory, load, drafts)

        return self._decodes[kind].at(batch, work)

    def prompt(self, memory: Memory) -> float:
        """Return the seconds that the prompt whose TTFT counts takes."""
        if self._prompt is None:
            isl = float(self._space.lengths.prompt(self._space.attainment))
            load = Load(tokens=isl, pairs=isl * (isl + 1.0) / 2.0, prompts=1.0)
            self._prompt = float(self._costs.seconds(self.layout, memory, load)[0])
        return self._prompt


def _stalled(space: Space, costs: Costs, alone: _Alone, ended: Ended) -> Frames:
    """Prompts computed whole between decode steps, up to ``p`` at a time and rank, ``b`` decoding.

    None waits for others to gather: a stall computes the prompts for whose seats a decode step has
    ended sequences. Points that fewer prompts at a time have too are left out.
    """
    lengths, layout = space.lengths, alone.layout
    seats, fewer = Seats.of(space, layout), 0
    for prompts in space.prompt_batches:
        largest = max(max(lengths.isl), round(prompts * lengths.mean_isl))
        step = Step(role="mixed", fixed=largest, each=1)
        room = Room.find(costs, layout, step, seats.least, space.max_batch)
        if room is None:
            break
        batch = space.batches(room.last)
        fits = seats.fit(room, batch)
        if fewer:
            fits &= ended.differ(layout, (fewer, prompts), batch)
        fewer = prompts
        if not fits.any():
            continue
        dealt = ended.dealt(layout, prompts, batch).where(fits)
        stalls = _stalls(space, costs, (alone, room.memory), dealt)
        for drafts in space.draft_tokens:
            decode, over = alone.decode(room.memory, batch, drafts)
            decode, over = decode[fits], over if isinstance(over, float) else over[fits]
            times, cycle = _stalled_times(space, (dealt.rate, stalls), decode, over)
            columns = _colocated_columns(space, layout, batch[fits], (0, times, cycle))
            alike = {"draft_tokens": drafts, "prompts": prompts}
            yield Points(layout, room.memory, columns, alike).frame()


def _stalled_times(
    space: Space, held: tuple[Floats, "_Stalls"], decode: Floats, over: Floats | float
) -> tuple["_Times", Floats]:
    """Return the times of decodes that so many stalls an iteration hold up, and their cycle.

    A sequence's own stall is before its first token.
    """
    (rate, stalls), lengths = held, space.lengths
    seen = np.maximum(rate - 1.0 / lengths.steps, 0.0)
    tpot = decode + stalls.seconds * seen
    varies = space.deviations**2 * seen * stalls.square * lengths.brevity
    cycle = stalls.seconds + tpot * lengths.steps
    gap = decode + stalls.seconds * stalls.run
    held_up = rate * stalls.seconds
    slow, busy = tpot + np.sqrt(over**2 + varies), held_up / (decode + held_up)
    return _Times(stalls.own, tpot, slow, gap, busy), cycle


class _Stalls(NamedTuple):
    """Decodes held up by prompts: ``seconds`` (mean) of a stall, and ``square``, of their square.

    ``own`` is the stall of the prompt whose TTFT counts, ``run`` how many follow each other where
    there are any.
    """

    run: Floats
    seconds: Floats
    square: Floats
    own: Floats


def _stalls(space: Space, costs: Costs, worker: tuple[_Alone, Memory], dealt: Dealt) -> _Stalls:
    """Return the stalls by prompts so dealt out over ranks and microbatches.

    Those for whose seats an iteration ends sequences are computed in one stall, or in several
    where one rank got more than it computes at a time.
    """
    (alone, memory), lengths = worker, space.lengths
    layout, (ended, rate, most) = alone.layout, dealt
    ranks, stages = layout.attention_dp, layout.pp
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
    seconds = costs.seconds(layout, memory, load)
    spread = (tokens**2 @ share) / lengths.mean_isl**2 - 1.0
    square = seconds**2 * (1.0 + spread / np.maximum(ended / rate, 1.0))
    own = np.maximum(seconds, alone.prompt(memory))
    return _Stalls(rate / -np.expm1(-ended), seconds, square, own)


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


def _piggybacked(space: Space, costs: Costs, alone: _Alone) -> Frames:
    """Let a share of the steps of ``b`` decodes carry a chunk of ``c`` prompt tokens a rank.

    A batch that finishes ``b / steps`` requests an iteration needs their prompts' chunks; a chunk
    too small for that cannot keep the batch full and is left out. A chunk of several prompts
    gathers them as :func:`_stalled` does. Attention ranks take theirs as seats fall free, each in
    its time (:mod:`simulator.explore.ranks`).
    """
    lengths, layout = space.lengths, alone.layout
    seats = Seats.of(space, layout)
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
        mean, _ = decode_loads(space, layout, batch)
        for drafts in space.draft_tokens:
            mixed = costs.seconds(*worker, _beside(load, mean), drafts)
            decode, over = alone.decode(room.memory, batch, drafts)
            own = mixed
            if lengths.varied:
                own = costs.seconds(*worker, _beside(mix.own, mean), drafts)
                own = own if layout.attention_dp == 1 else np.maximum(own, mixed)
            tpot = together * mixed + (1.0 - together) * decode
            varies = together * (1.0 - together) * mix.run * lengths.brevity * (mixed - decode) ** 2
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
