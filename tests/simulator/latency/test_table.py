"""Tables: exact at their nodes, bilinear between, refused with a reason."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.latency.base import WorkerSpec
from simulator.latency.pieces import at
from simulator.latency.table import Table, TableSteps

DECODE = [
    (batch, context, 1e-3 * (5 + batch / 7 + batch * math.sqrt(context) / 900))
    for batch in (1, 4, 32, 128)
    for context in (128, 1024, 8192, 32768)
]
PREFILL = [
    (tokens, past, 1e-3 * (8 + tokens / 50 + tokens * past / 1e6))
    for tokens in (1, 512, 4096)
    for past in (0, 2048, 16384)
]

Bind = Callable[[str, str], TableSteps]


def csv(header: str, rows: Sequence[tuple[float, ...]]) -> str:
    """Write rows as CSV."""
    return "\n".join([header, *(",".join(repr(value) for value in row) for row in rows)]) + "\n"


GOOD_DECODE = csv("batch,context,seconds", DECODE)
GOOD_PREFILL = csv("tokens,past,seconds", PREFILL)


@pytest.fixture
def bind(tmp_path: Path, workers: dict[str, WorkerSpec]) -> Bind:
    """Bind the tables of two texts."""

    def from_text(decode: str, prefill: str) -> TableSteps:
        (tmp_path / "decode.csv").write_text(decode)
        (tmp_path / "prefill.csv").write_text(prefill)
        table = Table(
            decode_path=str(tmp_path / "decode.csv"), prefill_path=str(tmp_path / "prefill.csv")
        )
        return table.bind(workers["dense"])

    return from_text


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, workers: dict[str, WorkerSpec]) -> TableSteps:
    """Step times of the two good tables, as parquet with shuffled rows."""
    folder = tmp_path_factory.mktemp("tables")
    for name, header, rows in (
        ("decode", ["batch", "context", "seconds"], DECODE),
        ("prefill", ["tokens", "past", "seconds"], PREFILL),
    ):
        frame = pl.DataFrame(rows, schema=header, orient="row").sample(
            fraction=1, shuffle=True, seed=1
        )
        frame.write_parquet(folder / f"{name}.parquet")
    table = Table(
        decode_path=str(folder / "decode.parquet"), prefill_path=str(folder / "prefill.parquet")
    )
    return table.bind(workers["dense"])


def test_exact_at_the_nodes(steps: TableSteps) -> None:
    """Every measured point comes back as it was measured."""
    for batch, context, seconds in DECODE:
        assert steps.step_seconds(0, 0, 0, 0, batch, batch * context) == pytest.approx(
            seconds, rel=1e-12
        )
    for tokens, past, seconds in PREFILL:
        assert steps.step_seconds(tokens, 0, past, 1, 0, 0) == pytest.approx(seconds, rel=1e-12)


@given(batch=st.integers(1, 128), context=st.integers(128, 32768))
def test_between_nodes(steps: TableSteps, batch: int, context: int) -> None:
    """Between nodes the value lies within those of the cell's corners."""
    axes = (1, 4, 32, 128), (128, 1024, 8192, 32768)
    (b0, b1), (c0, c1) = (
        next(pair for pair in pairwise(axis) if pair[0] <= x <= pair[1])
        for axis, x in zip(axes, (batch, context), strict=True)
    )
    corners = [s for b, c, s in DECODE if b in (b0, b1) and c in (c0, c1)]
    seconds = steps.step_seconds(0, 0, 0, 0, batch, batch * context)
    assert min(corners) * (1 - 1e-12) <= seconds <= max(corners) * (1 + 1e-12)


@given(batch=st.integers(1, 400), context=st.integers(1, 100_000))
def test_decode_is_its_pieces(steps: TableSteps, batch: int, context: int) -> None:
    """A decode step is its piece to the bit, and pieces join."""
    pieces = steps.decode_pieces(batch)
    total = batch * context
    assert steps.step_seconds(0, 0, 0, 0, batch, total) == at(pieces, total)
    assert pieces[-1].upto == math.inf
    for left, right in pairwise(pieces):
        x = left.upto
        assert left.c0 + x * left.c1 == pytest.approx(right.c0 + x * right.c1, rel=1e-9, abs=1e-15)


def test_beyond_the_nodes_the_last_segment_goes_on(steps: TableSteps) -> None:
    """Extrapolation is linear in each axis."""
    at_8k, at_32k, at_56k = (steps.step_seconds(0, 0, 0, 0, 4, 4 * c) for c in (8192, 32768, 57344))
    assert at_56k - at_32k == pytest.approx(at_32k - at_8k)
    small, middle, large = (steps.step_seconds(t, 0, 0, 1, 0, 0) for t in (512, 4096, 7680))
    assert large - middle == pytest.approx(middle - small)


def test_never_below_zero(bind: Bind) -> None:
    """A falling table is held at 0 where its line would go below."""
    falling = csv("batch,context,seconds", [(1, 10, 1e-3), (1, 20, 5e-4)])
    steps = bind(falling, csv("tokens,seconds", [(10, 1e-3), (20, 2e-3)]))
    assert steps.step_seconds(0, 0, 0, 0, 1, 25) == pytest.approx(2.5e-4)
    assert steps.step_seconds(0, 0, 0, 0, 1, 1000) == 0.0
    steep = csv("batch,context,seconds", [(1, 100, 0.0), (1, 200, 1e-3)])
    assert bind(steep, GOOD_PREFILL).step_seconds(0, 0, 0, 0, 1, 50) == 0.0


def test_past_is_optional_and_mixed_is_the_sum(bind: Bind) -> None:
    """Without a past column past does not matter; a mixed step takes both times."""
    steps = bind(GOOD_DECODE, csv("tokens,seconds", [(1, 1e-3), (1001, 11e-3)]))
    assert steps.step_seconds(501, 0, 9999, 1, 0, 0) == pytest.approx(6e-3)
    decode = steps.step_seconds(0, 0, 0, 0, 4, 4096)
    assert steps.step_seconds(501, 0, 0, 1, 4, 4096) == pytest.approx(6e-3 + decode)


@pytest.mark.parametrize(
    ("decode", "words"),
    [
        ("", ("decode.csv", "CSV")),
        ("batch,context,seconds\n", ("no rows",)),
        ("batch,seconds\n1,2\n", ("context", "missing")),
        ("batch,context,seconds\n1,128,fast\n", ("row 1", "seconds", "fast")),
        ("batch,context,seconds\n1,128,\n", ("row 1", "seconds", "None")),
        ("batch,context,seconds\n1,128,1\n-4,128,1\n", ("row 2", "batch", "-4")),
        ("batch,context,seconds\n1,128,nan\n", ("row 1", "seconds", "nan")),
        ("batch,context,seconds\n1,128,inf\n", ("row 1", "seconds", "inf")),
        ("batch,context,seconds\n1,128,1\n1,128,2\n", ("batch 1", "context 128", "twice")),
        ("batch,context,seconds\n1,1,1\n1,2,1\n4,1,1\n", ("batch 4", "context 2", "missing")),
        ("\x00\x01\x02\xff\xfe", ("decode.csv",)),
    ],
)
def test_bad_tables_are_refused(bind: Bind, decode: str, words: tuple[str, ...]) -> None:
    """Each flaw is one sentence that names the file's row, column or missing point."""
    with pytest.raises(ConfigError) as error:
        bind(decode, GOOD_PREFILL)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["missing.csv", ".", "noise.parquet"])
def test_unreadable_paths(tmp_path: Path, workers: dict[str, WorkerSpec], name: str) -> None:
    """A missing file, a folder and a broken parquet are named."""
    (tmp_path / "noise.parquet").write_bytes(b"PAR1 but not really")
    path = str(tmp_path / name)
    with pytest.raises(ConfigError, match="latency table") as error:
        Table(decode_path=path, prefill_path=path).bind(workers["dense"])
    assert str(tmp_path) in str(error.value)
