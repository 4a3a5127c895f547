"""What an engine's steps carry and sustain: what its step times are asked for, and searches."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest
from views import Steps, engine

from simulator.latency.base import Busiest, Piece
from simulator.policies.engines import Capacity, Shape, Targets, candidates


@dataclass
class Asked:
    """Step times of a second each, or by batch, that note what they are asked for."""

    by_batch: dict[int, float] = field(default_factory=dict)
    calls: list[tuple[int, ...]] = field(default_factory=list)
    stages: int = 1

    def decode_pieces(self, batch: int) -> tuple[Piece, ...]:
        """Return one line."""
        return (Piece(inf, self.by_batch.get(batch, 1.0), 0.0, 0.0),)

    def step_seconds(self, *numbers: int, busiest: Busiest | None = None) -> float:  # noqa: ARG002
        """Note tokens, pairs, past, prompts, batch and context."""
        self.calls.append(numbers)
        return self.by_batch.get(numbers[4], 1.0)


def asked(made: Any, *numbers: float) -> list[tuple[int, ...]]:
    """Return what the step times are asked for by a method of an engine."""
    steps = Asked()
    getattr(engine(steps), made)(*numbers)
    return steps.calls


@pytest.mark.parametrize(
    ("chunk", "each", "step"),
    [
        # two prompts of 1,001 tokens, nothing before them; each token attends to 501 on average
        (2048, 1000.2, (2048, 2048 * 501, 0, 2)),
        # part of one: half of the other 900 tokens lie before it
        (100, 1000.0, (100, 100 * 1001 // 2, 450, 1)),
        (100, 1001.0, (100, 100 * 501, 450, 1)),  # 450.5, rounded down
        # no more prompts than there are seats, none shorter than a token
        (8192, 10.0, (8192, 8192 * 11 // 2, 0, 100)),
        (5, 0.0, (5, 5, 0, 5)),
        (1600, 1000.0, (1600, 1600 * 1001 // 2, 0, 2)),
    ],
)
def test_a_step_of_prompts_beside_a_batch(
    chunk: int, each: float, step: tuple[int, int, int, int]
) -> None:
    """Tokens, pairs of tokens that attend, tokens before, and prompts."""
    assert asked("mixed_s", chunk, each, 3, 500) == [(*step, 3, 500)]


def test_an_iteration_has_no_prompts() -> None:
    """Nothing but the batch and its context."""
    assert asked("step_s", 3, 500) == [(0, 0, 0, 0, 3, 500)]


@pytest.mark.parametrize(
    ("tokens", "chunks", "seconds"),
    [
        (20_000, [8192, 3616], 3.0),  # two full steps, which are alike, and the rest
        (16_384, [8192], 2.0),
        (8_191.5, [8192], 1.0),
        (8_191, [8191], 1.0),
        (0.5, [1], 1.0),
        (0, [], 0.0),
    ],
)
def test_prompts_are_computed_in_full_steps(
    tokens: float, chunks: list[int], seconds: float
) -> None:
    """As many as it takes, each beside the batch, and none for nothing."""
    steps = Asked()
    made = engine(steps)
    assert made.prompts_s(tokens, 1000.0, 5, 600) == seconds
    assert [(call[0], *call[4:]) for call in steps.calls] == [(n, 5, 600) for n in chunks]
    made.prompts_s(tokens, 1000.0)
    assert {call[4:] for call in steps.calls[len(chunks) :]} <= {(0, 0)}


@pytest.mark.parametrize(
    ("shape", "computed", "context"),
    [
        (Shape(1000.0, 100.0), 1000, 1050),
        (Shape(10.9, 7.9), 11, 13),  # 10 and half of 7
        (Shape(1000.0, 100.0, 0.3333), 667, 1050),
        (Shape(1000.0, 100.0, -1.0), 1000, 1050),
        (Shape(0.0, 1.0), 1, 1),
    ],
)
def test_a_shape_in_whole_tokens(shape: Shape, computed: int, context: int) -> None:
    """Left to compute, rounded up; context half way through the answer, rounded down."""
    assert (shape.computed, shape.context) == (computed, context)


WIDE = Targets(100.0, 100.0)


def decoded(by_batch: dict[int, float], tpot_s: float = 0.05) -> Capacity | None:
    """Return what three seats sustain of answers of 100 tokens."""
    made = engine(Asked(by_batch), max_num_seqs=3, kv_tokens=10**6)
    return made.decode_capacity(Shape(1000.0, 100.0), Targets(1.0, tpot_s))


@pytest.mark.parametrize(
    ("seconds", "batch", "within"),
    [
        ((0.5, 0.04, 0.06), 2, True),  # 2 within, though the first is not
        ((0.04, 0.05, 0.06), 2, True),  # at the target is within
        ((0.02, 0.04, 0.05), 3, True),
        ((0.02, 0.045, 0.05), 3, True),  # 50, 44 and 60 a second
        ((0.5, 0.6, 0.7), 3, False),  # none: the fastest
        ((0.5, 1.1, 1.6), 1, False),
        ((0.0, 0.04, 0.06), 2, True),  # no time at all is no measurement
    ],
)
def test_the_fastest_batch_within_the_target(
    seconds: tuple[float, float, float], batch: int, within: bool
) -> None:
    """Within comes before fast; of none within, the fastest."""
    found = decoded(dict(enumerate(seconds, 1)))
    assert found is not None
    assert (found.batch, found.within) == (batch, within)
    assert (found.rate, found.tpot_s) == (
        pytest.approx(batch / (100 * seconds[batch - 1])),
        seconds[batch - 1],
    )
    assert found.ttft_s == 0.0


def test_what_takes_no_time_or_has_no_answer_sustains_nothing_known() -> None:
    """Neither pool nor a mixed worker."""
    free = engine(Steps(token=0.0, base=0.0))
    assert free.prefill_capacity(Shape(1000.0, 100.0), WIDE) is None
    assert free.mixed_capacity(Shape(1000.0, 100.0), WIDE) is None
    assert decoded({1: 0.0, 2: 0.0, 3: 0.0}) is None
    for capacity in (engine().decode_capacity, engine().mixed_capacity):
        assert capacity(Shape(1000.0, 0.9), WIDE) is None
        assert capacity(Shape(1000.0, 1.0), WIDE) is not None


def test_of_equally_fast_batches_the_smallest_counts() -> None:
    """1,024 tokens of 1/1024 s: one a second however many go together."""
    made = engine(Steps(token=1 / 1024))
    found = made.prefill_capacity(Shape(1024.0, 100.0), WIDE)
    assert found == Capacity(1.0, within=True, batch=1, ttft_s=1.0, tpot_s=0.0)
    at = made.prefill_capacity(Shape(1024.0, 100.0), Targets(1.0, 1.0))
    assert at is not None
    assert at.within


@pytest.mark.parametrize(
    ("tokens", "seats", "batch"),
    [(8192.0, 100, 1), (4096.0, 100, 2), (4097.0, 100, 1), (100.0, 7, 7), (9000.0, 100, 1)],
)
def test_prompts_that_go_together_fit_one_step(tokens: float, seats: int, batch: int) -> None:
    """Where each step takes a second the most that fit are the fastest."""
    found = engine(Asked(), max_num_seqs=seats).prefill_capacity(Shape(tokens, 1.0), WIDE)
    assert found is not None
    assert found.batch == batch


@pytest.mark.parametrize(("step", "batch"), [(110, 10), (111, 10), (121, 11), (2, None)])
def test_prompts_that_ride_leave_room_for_the_batch(step: int, batch: int | None) -> None:
    """A batch of b carries 10·b tokens of prompts: 11·b in all."""
    made = engine(max_num_batched_tokens=step, kv_tokens=10**6)
    found = made.mixed_capacity(Shape(1000.0, 100.0), WIDE)
    assert (None if found is None else found.batch) == batch


def test_the_smallest_mixed_step_has_two_tokens() -> None:
    """One of a prompt and one of an answer; a step of one token serves nobody."""
    assert engine(max_num_batched_tokens=1).mixed_capacity(Shape(1.0, 1.0), WIDE) is None
    found = engine(max_num_batched_tokens=2).mixed_capacity(Shape(1.0, 1.0), WIDE)
    assert found is not None
    assert (found.batch, found.rate) == (1, pytest.approx(1 / 0.0101))


def test_a_mixed_worker_keeps_both_targets() -> None:
    """Batch b: an iteration of 10 ms + 1 ms · b, a new prompt 0.1 s later."""
    made = engine(kv_tokens=10**6)
    shape = Shape(1000.0, 100.0)
    for targets, batch in (((9.0, 0.0300001), 20), ((0.1300001, 9.0), 20), ((0.12, 0.03), 9)):
        found = made.mixed_capacity(shape, Targets(*targets))
        assert found is not None
        assert found.within
        assert found.batch in (batch, batch + 1 if targets[0] == 0.12 else batch)
    late = made.mixed_capacity(shape, Targets(0.1, 9.0))
    assert late is not None
    assert not late.within
    # answers of 99 tokens: 1,000 / 99 a sequence, rounded up: 2 sequences carry 21
    short = made.mixed_capacity(Shape(1000.0, 99.0), Targets(9.0, 0.0122))
    assert short is not None
    assert (short.batch, short.tpot_s) == (2, pytest.approx(0.0121))


def test_kv_seats_and_steps_limit_a_mixed_batch() -> None:
    """KV for 100,000 // 1,050 = 95; 50 seats; 10 tokens of which the batch has at most 9."""
    shape = Shape(1000.0, 100_000.0)._replace(output_tokens=100.0)
    wide: dict[str, Any] = {"max_num_batched_tokens": 10**6, "max_num_seqs": 1000}
    for changes, batch in (({}, 95), ({"max_num_seqs": 50}, 50)):
        found = engine(**(wide | changes)).mixed_capacity(shape, WIDE)
        assert found is not None
        assert found.batch == batch
    tight = engine(max_num_batched_tokens=10).mixed_capacity(Shape(1.0, 100.0), WIDE)
    assert tight is not None
    assert tight.batch == 9


def test_128_batches_are_all_and_129_are_thinned() -> None:
    """Evenly, from the first to the last."""
    assert list(candidates(128)) == list(range(1, 129))
    assert list(candidates(255)) == list(range(1, 256, 2))
    assert len(list(candidates(129))) == 128
