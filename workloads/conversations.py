"""Drawn conversations: chats of several turns, and agents that call tools and spawn others.

A turn's prompt is everything before it in the session, and something new:
ISL(k) = ISL(k − 1) + OSL(k − 1) + new(k), until the context is full or is dropped, when it begins
anew from what the session's prefixes give it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from workloads import checks
from workloads.arrivals import MAX_ARRIVALS, Arrivals, mean_rate, rate_field
from workloads.errors import TraceError
from workloads.lengths import Geometric, Lengths
from workloads.prefixes import Prefixes, Whole, drawn, owned, runs_column
from workloads.sessions import Turns
from workloads.trace import SYNTHETIC, Trace, TraceMeta, Transform, canonical_frame, token_sum
from workloads.waits import ConstantWait, Waits

GRID = 1 << 16
"""Quantiles that a distribution's mean is taken from."""

MAX_TURN = 65_535
"""A session's turns are 16-bit numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subagents:
    """Helpers that an agent spawns: after a turn with ``probability``, ``count`` at once.

    Each has a context of its own, which begins with the session's prefix and ``first_tokens``, and
    makes ``calls``, one after the other. The agent's next turn waits for all of them.
    """

    probability: float = 0.0
    count: Lengths = field(default_factory=partial(Geometric, mean=2.0, max=64))
    calls: Lengths = field(default_factory=partial(Geometric, mean=10.0, max=1000))
    first_tokens: Lengths | None = None

    def __post_init__(self) -> None:
        checks.number("subagents", "probability", self.probability)
        if not 0 <= self.probability <= 1:
            raise TraceError(
                f"subagents: probability must lie in 0..1 but got {self.probability!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Sessions whose turns wait for each other's answers.

    ``sessions`` or ``duration_s`` of ``arrivals`` (or both, whichever ends first) bound them; with
    ``concurrency`` sessions at a time, arrivals may be left out. ``request_rate`` sets the mean
    requests/s that sessions come to, in place of the arrivals' own rate. A session has
    ``turns_per_session``; its first prompt is its prefix and ``first_tokens`` (``None``: those of
    any turn), each later one adds ``new_tokens`` to what was said before. ``wait`` passes between
    an answer and the next turn. With ``reset_probability`` a turn drops what was said before, as it
    does where prompt and answer would exceed ``max_context``. KV blocks have ``block_size`` tokens.
    """

    sessions: int | None = None
    duration_s: float | None = None
    arrivals: Arrivals | None = None
    request_rate: float | None = None
    concurrency: int | None = None
    turns: Turns = field(default_factory=Turns)
    turns_per_session: Lengths
    prefixes: Prefixes = field(default_factory=Prefixes)
    first_tokens: Lengths | None = None
    new_tokens: Lengths
    output_tokens: Lengths
    wait: Waits = field(default_factory=ConstantWait)
    reset_probability: float = 0.0
    subagents: Subagents = field(default_factory=Subagents)
    max_context: int = 131_072
    block_size: int = 16
    name: str = "conversations"

    def __post_init__(self) -> None:
        owner = "conversations"
        if self.sessions is None and (self.duration_s is None or self.arrivals is None):
            raise TraceError(f"{owner}: give sessions, or duration_s of arrivals")
        if self.sessions is not None:
            checks.whole(owner, "sessions", self.sessions, 1)
            self._check_most("sessions", self.sessions)
        if self.duration_s is not None:
            checks.positive(owner, "duration_s", self.duration_s, "s")
        if self.concurrency is not None:
            checks.whole(owner, "concurrency", self.concurrency, 1)
        elif self.arrivals is None:
            raise TraceError(f"{owner}: give arrivals, or concurrency for so many at a time")
        if self.request_rate is not None:
            checks.positive(owner, "request_rate", self.request_rate, "requests/s")
            self._paced()
        checks.number(owner, "reset_probability", self.reset_probability)
        if not 0 <= self.reset_probability <= 1:
            raise TraceError(
                f"{owner}: reset_probability must lie in 0..1 but got {self.reset_probability!r}"
            )
        checks.whole(owner, "max_context", self.max_context, 2)
        checks.whole(owner, "block_size", self.block_size, 1)

    @property
    def requests_per_session(self) -> float:
        """The mean number of requests of a session, helpers' calls included."""
        turns = _mean(self.turns_per_session)
        helped = self.subagents.probability * (turns - 1)
        return turns + helped * _mean(self.subagents.count) * _mean(self.subagents.calls)

    @property
    def mean_rate(self) -> float | None:
        """Mean requests/s while sessions begin; ``None`` where nothing says it."""
        if self.request_rate is not None:
            return self.request_rate
        sessions = mean_rate(self.arrivals)
        return None if sessions is None else sessions * self.requests_per_session

    def _paced(self) -> Arrivals | None:
        """Return the arrivals of sessions, at the rate that ``request_rate`` asks for."""
        if self.request_rate is None or self.arrivals is None:
            return self.arrivals
        rate, name = self.request_rate / self.requests_per_session, rate_field(self.arrivals)
        if name is None:
            kind = type(self.arrivals).__name__
            raise TraceError(f"conversations: request_rate cannot be set, as {kind} has no rate")
        return replace(self.arrivals, **{name: rate})  # type: ignore[type-var]

    def trace(self, rng_arrivals: np.random.Generator, rng_lengths: np.random.Generator) -> Trace:
        """Return the drawn requests, a session's after each other; later turns have no time."""
        starts = self._starts(rng_arrivals)
        streams = _Streams(*rng_lengths.spawn(8))
        calls = self._calls(starts.size, streams)
        group, shared = self.prefixes.draw(starts.size, streams.prefix)
        prefix = shared[group][calls.session]
        self._check_prefix(prefix)
        inputs, outputs, segment = self._tokens(calls, prefix, streams)
        frame = pl.DataFrame(
            {
                "arrival_s": pl.Series(starts[calls.session]).set(
                    pl.Series(calls.parent >= 0), None
                ),
                "input_tokens": inputs,
                "output_tokens": outputs,
                "session_id": calls.session,
                "turn": _null(np.minimum(calls.turn, MAX_TURN), calls.turn < 0),
                "parent_id": _null(calls.parent, calls.parent < 0),
                "delay_s": self._delays(calls, streams.wait),
                "block_runs": self._blocks(inputs, prefix, group[calls.session], segment),
                **calls.joins,
                **self._tenants(group[calls.session]),
            }
        )
        return self._told(canonical_frame(frame), starts.size)

    def _told(self, frame: pl.DataFrame, sessions: int) -> Trace:
        counts = {"sessions": sessions, "requests": frame.height}
        meta = TraceMeta(
            name=self.name,
            format=SYNTHETIC,
            block_size=self.block_size,
            block_scope="global",
            tail_block="omitted",
            loop="closed" if frame["arrival_s"].null_count() else "open",
            rows_read=frame.height,
            rows_kept=frame.height,
            tokens_read=token_sum(frame),
            transforms=(Transform(name="drawn", counts=counts),),
        )
        return Trace(frame, meta)

    def _starts(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return when sessions begin."""
        arrivals = self._paced()
        if arrivals is None or (self.concurrency is not None and self.duration_s is None):
            return np.zeros(self.sessions or 0)
        owner = f"conversations: {type(arrivals).__name__}"
        times = arrivals.times(rng, n=self.sessions, horizon_s=self.duration_s)
        starts = checks.numbers(owner, "times", times)
        if not starts.size:
            raise TraceError(f"conversations: no session begins within {self.duration_s!r} s")
        return starts

    def _calls(self, sessions: int, streams: "_Streams") -> "_Calls":
        """Return the order of all calls and who waits for whom."""
        turns = drawn(
            "conversations: turns_per_session", self.turns_per_session, sessions, streams.turns
        )
        self._check_most("turns", int(turns.sum()))
        spec = self.subagents
        main = _Calls.chains(turns)
        last = np.append(main.session[1:] != main.session[:-1], True)
        rng = streams.subagents
        spawns = (rng.spawn(1)[0].random(main.size) < spec.probability) & ~last
        if not spawns.any():
            return main
        count_rng, call_rng = rng.spawn(2)
        at = np.flatnonzero(spawns)
        helpers = np.repeat(at, drawn("subagents: count", spec.count, at.size, count_rng))
        calls = drawn("subagents: calls", spec.calls, helpers.size, call_rng)
        self._check_most("requests", main.size + int(calls.sum()))
        return main.with_helpers(helpers, calls)

    def _tokens(
        self, calls: "_Calls", prefix: Whole, streams: "_Streams"
    ) -> tuple[Whole, Whole, Whole]:
        """Return prompts, answers, and a number for each stretch of turns with one context."""
        size = calls.size
        outputs = drawn("conversations: output_tokens", self.output_tokens, size, streams.outputs)
        new = drawn("conversations: new_tokens", self.new_tokens, size, streams.new)
        outputs = np.minimum(outputs, self.max_context - prefix - 1)
        begins, own = calls.begins, calls.turn >= 0
        firsts = ((own, self.first_tokens), (~own, self.subagents.first_tokens))
        for (whose, lengths), rng in zip(firsts, streams.first.spawn(2), strict=True):
            if lengths is not None:
                first = drawn("conversations: first_tokens", lengths, size, rng)
                new = np.where(begins & whose, first, new)
        new = np.clip(new, 1, self.max_context - prefix - outputs)
        begins = begins | (streams.resets.random(size) < self.reset_probability)
        # rows of one context stand together here
        order = np.lexsort((np.arange(size), calls.context))
        inputs = np.empty(size, dtype=np.int64)
        segment = np.empty(size, dtype=np.int64)
        inputs[order], segment[order] = _accumulated(
            begins[order], prefix[order], new[order], outputs[order], self.max_context
        )
        return inputs, outputs, segment

    def _delays(self, calls: "_Calls", rng: np.random.Generator) -> pl.Series:
        waits = checks.numbers(
            f"conversations: {type(self.wait).__name__}",
            "sample",
            self.wait.sample(calls.size, rng),
            count=calls.size,
        )
        waits = np.where(calls.begins, 0.0, waits)  # helpers begin at once
        return _null(waits, calls.parent < 0)

    def _blocks(self, inputs: Whole, prefix: Whole, group: Whole, segment: Whole) -> pl.Series:
        size = self.block_size
        root = np.full(inputs.size, self.prefixes.root_tokens // size)
        groups = prefix // size - root
        own = inputs // size - prefix // size
        group_first, free = owned(groups, group, int(root[0]))
        own_first, _ = owned(own, segment, free)
        return runs_column([(np.zeros_like(root), root), (group_first, groups), (own_first, own)])

    def _tenants(self, group: Whole) -> Mapping[str, pl.Series]:
        if self.prefixes.groups == 1:
            return {}
        names = pl.Series([f"group-{each}" for each in range(self.prefixes.groups)])
        return {"tenant": names.cast(pl.Categorical)[group]}

    def _check_prefix(self, prefix: Whole) -> None:
        longest = int(prefix.max())
        if longest + 2 > self.max_context:
            raise TraceError(
                f"conversations: a prefix has {longest} tokens, which leaves no room for a prompt "
                f"and an answer in max_context ({self.max_context})"
            )

    def _check_most(self, name: str, count: int) -> None:
        if count > MAX_ARRIVALS:
            raise TraceError(f"conversations: {count} {name}, expected at most {MAX_ARRIVALS}")


class _Streams:
    """Random numbers for each thing that is drawn, so that none shifts another's."""

    def __init__(self, *streams: np.random.Generator) -> None:
        self.turns, self.prefix, self.first, self.new, self.outputs = streams[:5]
        self.wait, self.resets, self.subagents = streams[5:]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """Requests in order: their session, turn (-1: a helper's), parent (-1: none) and context.

    ``begins`` marks the first request of a context; ``joins`` is empty or the trace's column.
    """

    session: Whole
    turn: Whole
    parent: Whole
    context: Whole
    joins: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many there are."""
        return int(self.session.size)

    @property
    def begins(self) -> NDArray[np.bool_]:
        """Which are the first of their context."""
        first = np.full(int(self.context.max()) + 1, self.size)
        np.minimum.at(first, self.context, np.arange(self.size))
        begins = np.zeros(self.size, dtype=bool)
        begins[first] = True
        return begins

    @classmethod
    def chains(cls, turns: Whole) -> "_Calls":
        """Return sessions of so many turns, each waiting for the one before."""
        session = np.repeat(np.arange(turns.size), turns)
        turn = _within(turns)
        parent = np.where(turn == 0, -1, np.arange(session.size) - 1)
        return cls(session=session, turn=turn, parent=parent, context=session)

    def with_helpers(self, spawned_by: Whole, calls: Whole) -> "_Calls":
        """Return these and helpers' calls; who has spawned helpers goes on when all are done.

        ``spawned_by`` is, per helper, the request after which it begins, in rising order. Helpers'
        calls stand right behind that request, helper by helper.
        """
        count = self.size
        helper = np.repeat(np.arange(spawned_by.size), calls)
        behind = spawned_by[helper]
        step = _within(calls)
        # positions: each request moves back by the calls that stand before it
        before = np.zeros(count + 1, dtype=np.int64)
        np.add.at(before, behind + 1, 1)
        place = np.arange(count) + np.cumsum(before)[:count]
        theirs = np.arange(helper.size) + behind + 1  # rising, as ``spawned_by`` is
        whole = count + helper.size
        session, turn, parent, context = (np.empty(whole, dtype=np.int64) for _ in range(4))
        session[place], session[theirs] = self.session, self.session[behind]
        turn[place], turn[theirs] = self.turn, -1
        parent[place] = np.where(self.parent < 0, -1, place[self.parent])
        parent[theirs] = np.where(step == 0, place[behind], theirs - 1)
        context[place], context[theirs] = self.context, int(self.context.max()) + 1 + helper
        ends = np.cumsum(calls) - 1  # each helper's last call
        lists = pl.DataFrame(
            {
                "row": place[spawned_by + 1],
                "parent_id": theirs[ends].astype(np.uint32),
                "delay_s": np.zeros(ends.size),
            }
        ).group_by("row", maintain_order=True)
        joins = lists.agg(pl.struct("parent_id", "delay_s").alias("joins"))
        every = pl.DataFrame({"row": np.arange(whole)})
        column = every.join(joins, on="row", how="left", maintain_order="left")["joins"]
        return _Calls(
            session=session, turn=turn, parent=parent, context=context, joins={"joins": column}
        )


def _within(counts: Whole) -> Whole:
    """Return 0, 1, …, up to each count, one after the other."""
    starts = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(starts, counts)


def _accumulated(
    begins: NDArray[np.bool_], prefix: Whole, new: Whole, outputs: Whole, most: int
) -> tuple[Whole, Whole]:
    """Return prompts that grow until they begin anew, and the number of the stretch each is in.

    Where prompt and answer would exceed ``most`` tokens, the context begins anew too.
    """
    begins = begins.copy()
    said = new + np.append(0, outputs[:-1])
    while True:
        segment = np.cumsum(begins) - 1
        starts = np.flatnonzero(begins)
        total = np.cumsum(np.where(begins, new, said))
        since = total[starts] - new[starts]
        inputs = prefix + total - since[segment]
        over = np.flatnonzero((inputs + outputs > most) & ~begins)
        if not over.size:
            return inputs, segment
        _, first = np.unique(segment[over], return_index=True)
        begins[over[first]] = True


def _mean(lengths: Lengths) -> float:
    u = (np.arange(GRID) + 0.5) / GRID
    return float(np.mean(lengths.quantile(u)))


def _null(values: NDArray[Any], where: NDArray[np.bool_]) -> pl.Series:
    """Return a column that is null ``where`` it says so."""
    return pl.Series(values).set(pl.Series(where), None)
