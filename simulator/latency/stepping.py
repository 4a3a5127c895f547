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
from simulator.latency.base import Piece
from simulator.latency.machine import Machine, Rates
from simulator.latency.operators import head_operators, token_operators
from simulator.latency.passes import Number, PassSpec
from simulator.latency.pieces import Part, at, sum_of

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

    def decode_part(self, batch: float, share: float) -> Part:
        """Return seconds of ``batch`` decodes that hold ``share`` of the total context."""
        per_key = self.c_pair + self.c_key
        memory = (self.m_query + self.m_sequence) * batch + self.m_call
        return Part(
            floor=self.floor,
            overlap=self.overlap,
            upto=self.limit * batch / share,
            compute=(self.c_query * batch + self.c_call, per_key * share),
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
        block: list[float] = np.asarray(self._seconds(rows)).tolist()
        self._blocks[index] = block
        return block


class RooflineSteps:
    """Step times of one worker, exact in context and cheap per call.

    Prompts and sequences are spread evenly over the attention-DP ranks and, in a decode or mixed
    worker, over the ``pp`` microbatches that keep its pipeline full, so that an iteration takes
    the pass of one microbatch through all stages. The fullest rank sets the pace. A prefill
    worker passes whole steps, of which one may start every ``seconds / stages``.
    """

    __slots__ = (
        "_attention",
        "_decode",
        "_groups",
        "_heads",
        "_pieces",
        "_prefill",
        "_rows",
        "stages",
    )

    def __init__(self, spec: PassSpec, machine: Machine, role: str, host_overhead_s: float) -> None:
        layout = spec.layout
        self.stages = layout.pp if role == "prefill" else 1
        self._groups = layout.attention_dp * (1 if role == "prefill" else layout.pp)
        self._rows = RowTable(
            lambda rows: machine.sum_seconds(token_operators(spec, rows)) + host_overhead_s
        )
        self._heads = RowTable(lambda rows: machine.sum_seconds(head_operators(spec, rows)))
        terms = attention_terms(spec)
        self._prefill = tuple(form_of(t, machine) for t in terms if t.phase == "prefill")
        self._decode = tuple(form_of(t, machine) for t in terms if t.phase == "decode")
        self._pieces: dict[int, tuple[Piece, ...]] = {}
        self._attention: dict[int, tuple[Piece, ...]] = {}

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the pieces, by rising ``upto`` (the last infinite), for ``batch`` sequences."""
        pieces = self._pieces.get(batch)
        if pieces is None:
            local = -(-batch // self._groups)
            constant = self._rows[local] + self._heads[local]
            pieces = self._kept(self._pieces, batch, constant)
        return pieces

    def step_seconds(
        self, tokens: int, pairs: int, past: int, prompts: int, batch: int, context: int
    ) -> float:
        """Return seconds of a step; see :class:`~simulator.latency.base.StepModel`."""
        if not tokens:
            return at(self.decode_pieces(batch), context)
        groups = self._groups
        if groups == 1:
            seconds = self._rows[tokens + batch] + self._heads[prompts + batch]
        else:
            local, sequences = -(-tokens // groups), -(-batch // groups)
            seconds = self._rows[local + sequences]
            seconds += self._heads[-(-prompts // groups) + sequences]
            tokens, prompts = local, prompts / groups  # type: ignore[assignment]
            pairs, past = pairs / groups, past / groups  # type: ignore[assignment]
        for form in self._prefill:
            seconds += form.prefill_seconds(tokens, pairs, past, prompts)
        if batch:
            pieces = self._attention.get(batch) or self._kept(self._attention, batch, 0.0)
            seconds += at(pieces, context)
        return seconds

    def _kept(
        self, cache: dict[int, tuple[Piece, ...]], batch: int, constant: float
    ) -> tuple[Piece, ...]:
        """Make the pieces of ``batch`` decodes and keep them in ``cache``."""
        if len(cache) >= MAX_BATCHES:
            cache.clear()
        local = -(-batch // self._groups)
        share = local / batch if batch else 1.0
        parts = [form.decode_part(local, share) for form in self._decode]
        pieces = cache[batch] = sum_of(parts, constant)
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
        c_query=(term.per_query + rates.ramp * term.per_pair) * flop,
        c_key=term.per_key * flop,
        c_call=rates.ramp * term.ramp * flop,
        m_query=term.query_bytes * byte,
        m_key=term.key_bytes * byte,
        m_sequence=term.sequence_bytes * byte,
        m_call=term.weights * byte,
    )
