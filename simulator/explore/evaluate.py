"""Every design point of a space in steady state: prefill, decode and co-located workers.

Each yields one frame per layout, so memory stays bounded however large the space; what does not
fit its GPUs is not there. A worker's columns:

* ``tp, pp, ep, attention_dp, gpus``: its layout;
* ``batch``: sequences (prompts, for prefill) in flight over all its ranks and stages;
* ``chunk``: prompt tokens per step and attention rank, 0 where prompts are computed whole;
* ``ttft_s``: seconds of a prompt that waits for none but those computed with it; ``tpot_s``: mean
  seconds per output token;
* ``draft_tokens``: tokens a decode step drafts per sequence (not for prefill, which drafts none);
* ``prompts``: of a co-located worker, those a rank computes at a time while its decodes wait, 0
  where they ride on decode steps;
* ``rate``: requests/s of the worker; ``kv_gpus``: its GPUs that hold distinct shards of KV.
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
    :func:`chunked_seconds`.
    """
    return _each_layout(space, costs, progress, (_whole_prompts, _chunked_prompts))


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
    isl, counts = np.unique(np.asarray(lengths.isl, np.float64), return_counts=True)
    tokens = np.multiply.outer(batch, isl)
    load = Load(
        tokens=tokens.ravel(),
        pairs=(tokens * (isl + 1) / 2).ravel(),
        prompts=np.repeat(batch, len(isl)),
    )
    seconds = costs.seconds(*worker, load).reshape(tokens.shape)
    mean: Floats = seconds @ (counts / counts.sum())
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
        seconds, between = _chunked_prompt(space.lengths, costs, (layout, memory), chunk)
        columns = {
            "batch": np.full(1, in_flight * layout.attention_dp),
            "chunk": np.full(1, chunk),
            "ttft_s": np.full(1, seconds),
            "rate": np.full(1, layout.attention_dp / between),
        }
        yield Points(layout, memory, columns).frame(np.ones(1, np.bool_))


def _chunked_prompt(
    lengths: Lengths, costs: Costs, worker: tuple[Layout, Memory], chunk: int
) -> tuple[float, float]:
    """Return mean seconds of a chunked prompt, and between two, over the sampled lengths."""
    layout = worker[0]
    sizes = [chunk_sizes(tokens, chunk) for tokens in lengths.isl]
    tokens = np.concatenate(sizes).astype(np.float64)
    past = np.concatenate([np.cumsum(each) - each for each in sizes])
    load = Load(
        tokens=tokens, pairs=tokens * past + tokens * (tokens + 1) / 2, past=past, prompts=1
    )
    seconds = costs.seconds(*worker, load)
    ends = np.cumsum([len(each) for each in sizes])
    through = [chunked_seconds(each, layout.pp) for each in np.split(seconds, ends[:-1])]
    total, between = np.mean(through, axis=0)
    return float(total), float(between)


def _holds(memory: Memory, layout: Layout, need: float) -> bool:
    return need <= memory.kv_blocks // layout.attention_dp


# --- decode -----------------------------------------------------------------------------------


def _decode(space: Space, costs: Costs, layout: Layout) -> Frames:
    """Batches of ``b`` sequences per rank and microbatch, ``pp`` microbatches in flight."""
    need = layout.pp * costs.blocks(space.lengths.held)
    step = Step(role="decode")
    room = Room.find(costs, layout, step, need, space.max_batch)
    if room is None:
        return
    batch = space.batches(room.last)
    in_flight, fits = batch * layout.attention_dp * layout.pp, room.fits(batch, batch * need)
    load = _decode_load(space.lengths, batch)
    for drafts in space.draft_tokens:
        seconds = costs.seconds(layout, room.memory, load, drafts)
        columns = {
            "batch": in_flight,
            "tpot_s": seconds,
            "rate": in_flight / (seconds * space.lengths.steps),
        }
        yield Points(layout, room.memory, columns, {"draft_tokens": drafts}).frame(fits)


def _decode_load(lengths: Lengths, batch: Floats) -> Load:
    return Load(batch=batch, context=batch * lengths.context)


# --- co-located -------------------------------------------------------------------------------


def _stalled(space: Space, costs: Costs, layout: Layout) -> Frames:
    """Prompts computed whole between decode steps: ``p`` at a time and rank, ``b`` decoding.

    Requests arrive one by one, so ``p`` prompts gather while ``p`` sequences end: the mean wait
    of half of that is part of TTFT.
    """
    lengths, longest = space.lengths, max(space.lengths.isl)
    need = layout.pp * costs.blocks(lengths.held)
    for prompts in space.prompt_batches:
        step = Step(role="mixed", fixed=prompts * longest, each=1)
        room = Room.find(costs, layout, step, need, space.max_batch)
        if room is None:
            break
        worker = layout, room.memory
        batch = space.batches(room.last)
        stall = _prompt_seconds(lengths, costs, worker, np.array([float(prompts)]))
        fits = room.fits(batch, batch * need) & (batch >= prompts)
        for drafts in space.draft_tokens:
            decode = costs.seconds(*worker, _decode_load(lengths, batch), drafts)
            # A generation holds batch / prompts stalls; a sequence's own is before its first token.
            tpot = decode + stall * (batch / prompts - 1.0) / lengths.steps
            cycle = stall + tpot * lengths.steps
            ttft = stall + (prompts - 1.0) / 2.0 * cycle / batch
            columns = _colocated_columns(layout, batch, (np.zeros(1), ttft, tpot), cycle)
            alike = {"draft_tokens": drafts, "prompts": prompts}
            yield Points(*worker, columns, alike).frame(fits)


def _piggybacked(space: Space, costs: Costs, layout: Layout) -> Frames:
    """Let a share of the steps of ``b`` decodes carry a chunk of ``c`` prompt tokens a rank.

    A batch that finishes ``b / steps`` requests an iteration needs ``b · isl / steps`` prompt
    tokens an iteration; a chunk too small for that cannot keep the batch full and is left out.
    A chunk of several prompts gathers them as :func:`_stalled` does.
    """
    lengths = space.lengths
    isl = lengths.mean_isl
    for chunk in _mixes(space):
        prompts = max(1.0, chunk / isl)  # in one step
        held = layout.pp * costs.blocks(lengths.held)
        step = Step(role="mixed", fixed=chunk, each=1)
        most = min(space.max_batch, int(chunk * lengths.steps / isl))
        if most < 1:
            continue
        room = Room.find(costs, layout, step, held, most)
        if room is None:
            break
        worker = layout, room.memory
        batch = space.batches(room.last)
        share = batch * isl / (lengths.steps * chunk)
        gathers = batch >= prompts
        fits = room.fits(batch, (batch + prompts) * held) & (share <= 1.0) & gathers
        for drafts in space.draft_tokens:
            mixed = costs.seconds(*worker, _mixed_load(lengths, batch, chunk), drafts)
            alone = costs.seconds(*worker, _decode_load(lengths, batch), drafts)
            tpot = share * mixed + (1.0 - share) * alone
            cycle = tpot * lengths.steps
            ttft = max(1.0, isl / chunk) * mixed + (prompts - 1.0) / 2.0 * cycle / batch
            costed = np.full(1, chunk), ttft, tpot
            columns = _colocated_columns(layout, batch, costed, cycle)
            alike = {"draft_tokens": drafts, "prompts": 0}
            yield Points(*worker, columns, alike).frame(fits)


def _mixes(space: Space) -> list[int]:
    """Return the prompt tokens per mixed step to try: chunks, and whole prompts."""
    isl = round(space.lengths.mean_isl)
    smaller = (64, 128, 256, *space.chunks)
    whole = [isl * prompts for prompts in space.prompt_batches if isl * prompts <= max(smaller)]
    return sorted({*(chunk for chunk in smaller if chunk < isl), *whole, isl})


def _mixed_load(lengths: Lengths, batch: Floats, chunk: int) -> Load:
    """Return the mean load of a step with a chunk: the means over a prompt's chunks."""
    isl = np.asarray(lengths.isl, np.float64)
    pairs_per_token = float((isl * (isl + 1) / 2).sum() / isl.sum())
    past_per_token = float((isl * np.maximum(isl - chunk, 0.0) / 2).sum() / isl.sum())
    return Load(
        tokens=float(chunk),
        pairs=chunk * pairs_per_token,
        past=past_per_token,
        prompts=max(1.0, chunk / lengths.mean_isl),
        batch=batch,
        context=batch * lengths.context,
    )


def _colocated_columns(
    layout: Layout, batch: Floats, costed: tuple[Floats, Floats, Floats], cycle: Floats
) -> dict[str, Floats]:
    """Return the columns of points that took these chunks, TTFTs and TPOTs.

    ``cycle`` is how long a sequence keeps its seat in the batch.
    """
    chunk, ttft, tpot = costed
    in_flight = batch * layout.attention_dp * layout.pp
    return {
        "batch": in_flight,
        "chunk": chunk,
        "ttft_s": ttft,
        "tpot_s": tpot,
        "rate": in_flight / cycle,
    }
