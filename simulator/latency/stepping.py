"""A roofline bound to one worker: the event engine's fast, exact view of the same operators.

What depends on the number of rows is evaluated by the vectorised operators, a block of row counts
at a time, and looked up. Attention is closed form: each of its operators is
``floor + max(C, M) + overlap · min(C, M)`` with C and M linear in queries, pairs, keys and
sequences, so a decode step is piecewise affine in its total context, and exactly that.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.latency.attention import Term, attention_terms
from simulator.latency.base import Busiest, Piece
from simulator.latency.machine import Machine, Rates
from simulator.latency.operators import head_operators, token_operators
from simulator.latency.passes import Number
from simulator.latency.pieces import Part, at, at_least, scaled, sum_of
from simulator.latency.step import Step

BLOCK_BITS = 8
MAX_BLOCKS = 8192
"""Cached blocks of 2**BLOCK_BITS row counts (2M counts, some 70 MB) before starting over."""
MAX_BATCHES = 65536
"""Cached batch sizes before starting over."""


class Form(NamedTuple):
    """An attention operator in seconds: its term's coefficients times the machine's rates.

    ``C = c_pair·pairs + c_query·queries + c_key·keys + c_call`` and
    ``M = m_query·queries + m_key·keys + m_sequence·sequences + m_call``.
    """

    floor: float
    limit: float
    overlap: float
    c_pair: float
    c_query: float
    c_key: float
    c_call: float
    m_query: float
    m_key: float
    m_sequence: float
    m_call: float

    def prefill_seconds(self, queries: float, pairs: float, past: float, prompts: float) -> float:
        """Return seconds over chunks of ``queries`` tokens in all."""
        if self.limit < math.inf:
            pairs = min(pairs, queries * self.limit)
            past = min(past, prompts * self.limit)
        keys = past + queries
        compute = self.c_pair * pairs + self.c_query * queries + self.c_key * keys + self.c_call
        memory = self.m_query * queries + self.m_key * keys + self.m_call
        memory += self.m_sequence * prompts
        if compute > memory:
            return self.floor + compute + self.overlap * memory
        return self.floor + memory + self.overlap * compute

    def decode_part(self, batch: float, share: float, width: int) -> Part:
        """Return seconds of ``batch`` decodes that hold ``share`` of the total context.

        Each decodes ``width`` tokens, which read the same keys.
        """
        per_key = self.c_pair * width + self.c_key
        memory = (self.m_query * width + self.m_sequence) * batch + self.m_call
        return Part(
            floor=self.floor,
            overlap=self.overlap,
            upto=self.limit * batch / share,
            compute=(self.c_query * width * batch + self.c_call, per_key * share),
            memory=(memory, self.m_key * share),
        )


class RowTable:
    """Seconds of a group of operators by row count, evaluated in blocks and kept."""

    __slots__ = ("_blocks", "_seconds")

    def __init__(self, seconds: Callable[[NDArray[np.float64]], Number]) -> None:
        self._seconds = seconds
        self._blocks: dict[int, list[float]] = {}

    def __getitem__(self, rows: int) -> float:
        block = self._blocks.get(rows >> BLOCK_BITS)
        if block is None:
            block = self._fill(rows >> BLOCK_BITS)
        return block[rows & ((1 << BLOCK_BITS) - 1)]

    def _fill(self, index: int) -> list[float]:
        if len(self._blocks) >= MAX_BLOCKS:
            self._blocks.clear()
        first = index << BLOCK_BITS
        rows = np.arange(first, first + (1 << BLOCK_BITS), dtype=np.float64)
        block: list[float] = np.broadcast_to(self._seconds(rows), rows.shape).tolist()
        self._blocks[index] = block
        return block


class RooflineSteps:
    """Step times of one worker, exact in context and cheap per call.

    Sequences are spread evenly over the attention-DP ranks and, in a decode or mixed worker, over
    the ``pp`` microbatches that keep its pipeline full, so that an iteration takes the pass of one
    microbatch through all stages. Prompt chunks are spread over microbatches too, but each lies on
    one rank. The rank with most new tokens sets the pace, and its share of the attended pairs is
    that of its tokens; ranks with fewer only lend it their experts, which see the mean of all.
    A prefill worker passes whole steps, of which one may start every ``seconds / stages``.

    With speculative decoding a decode step is the share of one that one token per sequence
    takes: seconds over the tokens each sequence gains by it. Beside prompt chunks, what the
    decodes add to the chunks' seconds is shared the same way.
    """

    __slots__ = (
        "_attention",
        "_decode",
        "_depth",
        "_draft",
        "_exchange",
        "_experts",
        "_groups",
        "_halves",
        "_heads",
        "_pieces",
        "_prefill",
        "_ranks",
        "_rows",
        "_simple",
        "_step",
        "_waiting",
        "_width",
        "stages",
    )

    def __init__(self, step: Step, role: str) -> None:
        spec, machine = step.spec, step.machine
        layout, sum_seconds = spec.layout, machine.sum_seconds
        self.stages = layout.pp if role == "prefill" else 1
        self._step, self._halves, self._width = step, step.halves, spec.decode_width
        ranks = layout.attention_dp * (1 if role == "prefill" else layout.pp)
        self._groups = ranks * step.halves
        self._ranks = layout.attention_dp
        self._depth = self._groups // self._ranks
        self._waiting = step.waiting
        self._simple = step.halves == 1 and not step.engine.graph_sizes
        self._rows = RowTable(lambda rows: sum_seconds(step.compute_operators(rows)))
        self._exchange = RowTable(lambda rows: sum_seconds(step.exchange_operators(rows)))
        self._experts = RowTable(lambda rows: sum_seconds(step.expert_operators(rows)))
        self._heads = RowTable(lambda rows: sum_seconds(head_operators(spec, rows)))
        draft = step.draft_spec
        self._draft = RowTable(lambda rows: sum_seconds(token_operators(draft, rows)))
        terms = attention_terms(spec)
        self._prefill = tuple(form_of(t, machine) for t in terms if t.phase == "prefill")
        self._decode = tuple(form_of(t, machine) for t in terms if t.phase == "decode")
        self._pieces: dict[int, tuple[Piece, ...]] = {}
        self._attention: dict[int, tuple[Piece, ...]] = {}

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the pieces, by rising ``upto`` (the last infinite), for ``batch`` sequences."""
        pieces = self._pieces.get(batch)
        if pieces is None:
            pieces = self._whole_pieces(batch)
            if self._step.speculative.drafts:
                pieces = scaled(pieces, 1.0 / self._step.speculative.tokens_per_step)
            if len(self._pieces) >= MAX_BATCHES:
                self._pieces.clear()
            self._pieces[batch] = pieces
        return pieces

    def step_seconds(
        self,
        tokens: int,
        pairs: int,
        past: int,
        prompts: int,
        batch: int,
        context: int,
        busiest: Busiest | None = None,
    ) -> float:
        """Return seconds of a step; see :class:`~simulator.latency.base.StepModel`."""
        if not tokens:
            return at(self.decode_pieces(batch), context)
        busiest = busiest or self._even(tokens, prompts)
        seconds = self._whole(tokens, pairs, past, busiest, batch, context)
        if batch and self._step.speculative.drafts:
            chunks = self._whole(tokens, pairs, past, busiest, 0, 0)
            return chunks + (seconds - chunks) / self._step.speculative.tokens_per_step
        return seconds

    def _even(self, tokens: int, prompts: int) -> Busiest:
        """Return what the fullest ranks have of ``prompts`` equal chunks."""
        most = -(-prompts // self._ranks)
        return Busiest(-(-tokens * most // prompts), most)

    def _whole(
        self, tokens: int, pairs: float, past: float, busiest: Busiest, batch: int, context: int
    ) -> float:
        """Return seconds of a whole step with prompt chunks, whatever its decodes yield."""
        groups, width = self._groups, self._width
        local, prompts = busiest
        sequences, sampled, share = batch, prompts, float(prompts)
        if groups > 1:
            part = local / (tokens * self._depth)
            local, sequences, sampled = (
                -(-each // over)
                for each, over in ((local, self._depth), (batch, groups), (prompts, self._depth))
            )
            share, pairs, past = share / self._depth, pairs * part, past * part
        rows = local + sequences * width
        padded = rows if self._simple else self._step.engine.computed(rows, sequences * width)
        seconds = self._rows[padded] + self._heads[sampled + sequences * width]
        mean = -(-tokens // groups) + sequences * width
        if mean < rows:  # experts see the mean of all ranks, not what the busiest one brings
            seconds += self._experts[self._step.engine.computed(mean, sequences * width)]
            seconds -= self._experts[padded]
        for form in self._prefill:
            seconds += form.prefill_seconds(local, pairs, past, share)
        if batch:
            pieces = self._attention.get(batch) or self._attention_pieces(batch)
            seconds += at(pieces, context)
        launches = 0.0
        if not self._simple:
            launches = self._launches(rows, (True, batch > 0))
            seconds = max(seconds * self._halves, self._least(padded)) + self._unhidden(padded)
        return self._with_host(seconds * self._waiting, launches, prompts, batch)

    def _with_host(self, seconds: float, launches: float, prompts: int, batch: int) -> float:
        """Return the step's seconds with the host's, for a rank's ``prompts`` and all decodes."""
        step, ranks = self._step, self._groups // self._halves
        if step.host_s is not None:
            return max(seconds, launches) + step.host_s
        engine = step.engine
        chunks, decodes = -(-prompts * self._ranks // ranks), -(-batch // ranks)
        host = engine.step_s + engine.sequence_s * (chunks + decodes)
        host = step.host_factor * (host + engine.prompt_s * chunks)
        if engine.overlap_scheduling:
            seconds = max(seconds, launches + host)
        else:
            seconds = max(seconds, launches) + host
        return seconds if step.stages == 1 else max(seconds, float(step.turns(decodes, chunks)))

    def _launches(self, rows: int, parts: tuple[bool, bool]) -> float:
        """Return the seconds of launching a step of ``rows``, 0 where a CUDA graph holds it.

        ``parts``: whether it has prompt chunks, and decodes.
        """
        step = self._step
        captured = rows <= step.engine.largest_step(parts[0])
        return 0.0 if captured else step.launches[parts] * self._waiting

    def _least(self, padded: int) -> float:
        """Return the seconds that the exchange of a step takes at least, beside its compute."""
        return 0.0 if self._halves == 1 else self._halves * self._exchange[padded]

    def _unhidden(self, padded: int) -> float:
        if self._halves == 1:
            return 0.0
        return self._step.unhidden_exchange * self._exchange[padded]

    def _whole_pieces(self, batch: int) -> tuple[Piece, ...]:
        """Make the pieces of a whole decode step, whatever it yields."""
        step, width, ranks = self._step, self._width, self._groups // self._halves
        rows = -(-batch // self._groups) * width
        padded = step.engine.padded(rows)
        constant = self._rows[padded] + self._heads[rows]
        pieces = scaled(self._attention_pieces(batch), self._halves, self._halves * constant)
        pieces = at_least(pieces, self._least(padded))
        pieces = scaled(pieces, self._waiting, self._waiting * self._unhidden(padded))
        launches = self._launches(rows, (False, True))
        if step.host_s is not None:
            return scaled(at_least(pieces, launches), 1.0, step.host_s)
        decodes = float(-(-batch // ranks))
        host = step.host_factor * float(step.engine.host_seconds(decodes))
        if step.engine.overlap_scheduling:
            pieces = at_least(pieces, launches + host)
        else:
            pieces = scaled(at_least(pieces, launches), 1.0, host)
        return pieces if step.stages == 1 else at_least(pieces, float(step.turns(decodes, 0.0)))

    def _attention_pieces(self, batch: int) -> tuple[Piece, ...]:
        """Make the pieces of decode attention, and of the drafts, and keep them."""
        if len(self._attention) >= MAX_BATCHES:
            self._attention.clear()
        step = self._step
        local = -(-batch // self._groups)
        share = local / batch if batch else 1.0
        parts = [form.decode_part(local, share, self._width) for form in self._decode]
        constant, drafts = 0.0, step.speculative.drafts
        if drafts and batch:
            kept = step.draft_share
            parts += [form.decode_part(local, share, 1).times(kept) for form in self._decode]
            constant = kept * self._draft[step.engine.padded(local)] + drafts * self._heads[local]
        pieces = self._attention[batch] = sum_of(parts, constant)
        return pieces


def form_of(term: Term, machine: Machine) -> Form:
    """Return a term's closed form on this machine."""
    rates: Rates = machine.rates(term.kind, term.dtype)
    flop, byte = rates.s_per_flop, rates.s_per_byte
    return Form(
        floor=term.calls * rates.floor_s,
        limit=term.limit,
        overlap=rates.overlap,
        c_pair=term.per_pair * flop,
        c_query=(term.per_query + rates.ramp * term.per_pair + rates.narrow * term.column_query)
        * flop,
        c_key=term.per_key * flop,
        c_call=rates.ramp * term.ramp * flop,
        m_query=term.query_bytes * byte,
        m_key=term.key_bytes * byte,
        m_sequence=(term.sequence_bytes + rates.thin * term.one_key_bytes) * byte,
        m_call=(term.weights + rates.thin * term.column_bytes) * byte,
    )
