"""What rows say beside times and tokens: whose request it was, and what its source measured."""

from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from workloads.trace import MAX_TOKENS, Transform
from workloads.where import Where

NAMES: Mapping[str, str] = {
    "source_id": "source_id",
    "request_id": "source_id",
    "session_id": "session_id",
    "turn": "turn",
    "model": "model",
    "tenant": "tenant",
    "ttft_s": "src_ttft_s",
    "src_ttft_s": "src_ttft_s",
    "e2e_s": "src_e2e_s",
    "src_e2e_s": "src_e2e_s",
}
"""Further columns or fields of any format that are kept, by the canonical column they fill."""

MAX_NAMES = 40
MAX_NAME = 60
"""Of what is not read, so many names are told, each so long."""

MAX_TURN = 65_535


def kept(names: Sequence[str]) -> dict[str, str]:
    """Return the canonical column of each name that fills one, the first where two would."""
    chosen: dict[str, str] = {}
    for name in NAMES:
        if name in names and NAMES[name] not in chosen.values():
            chosen[name] = NAMES[name]
    return chosen


def identity(text: pl.DataFrame, names: Mapping[str, str], where: Where) -> pl.DataFrame:
    """Return the columns ``names`` of a batch as canonical ones; empty text is null.

    Sessions stay text here: their codes need the whole file (:func:`coded`).
    """
    return pl.DataFrame(
        [_typed(text[name], target, where).alias(target) for name, target in names.items()]
    )


def _typed(values: pl.Series, target: str, where: Where) -> pl.Series:
    if values.dtype == pl.String:
        values = values.replace({"": None})
    if target == "cached_tokens_hint":
        return _numbers(values, pl.Int32(), MAX_TOKENS, "a whole number of tokens", where)
    if target == "delay_s":
        return _numbers(values, pl.Float64(), float("inf"), "a number of seconds", where)
    if target.startswith("src_"):
        return _numbers(values, pl.Float32(), float("inf"), "a number of seconds", where)
    if target == "turn":
        return _numbers(values, pl.UInt16(), MAX_TURN, f"a whole number in 0..{MAX_TURN}", where)
    return values.cast(pl.String)


def _numbers(
    values: pl.Series, dtype: pl.DataType, most: float, expected: str, where: Where
) -> pl.Series:
    """Return ``values`` as numbers from 0 to ``most``; null stays null."""
    numbers = values.cast(pl.Float64, strict=False)
    good = numbers.is_finite() & (numbers >= 0) & (numbers <= most)
    if dtype.is_integer():
        good = good & (numbers == numbers.floor())
    where.require(good.fill_null(value=False) | values.is_null(), values, expected)
    return numbers.cast(dtype)


def coded(frame: pl.DataFrame) -> pl.DataFrame:
    """Return ``frame`` with its sessions' names as dense codes in order of appearance."""
    if "session_id" not in frame.columns:
        return frame
    sessions = frame["session_id"]
    known = sessions.drop_nulls().unique(maintain_order=True)
    if not known.len():
        return frame.with_columns(sessions.cast(pl.UInt32))
    codes = pl.int_range(known.len(), dtype=pl.UInt32, eager=True)
    return frame.with_columns(
        sessions.replace_strict(known, codes, default=None, return_dtype=pl.UInt32)
    )


def ignored(counts: Counter[str]) -> list[Transform]:
    """Return the account of columns or fields that were not read, with the rows that had them."""
    if not counts:
        return []
    told: dict[str, int | float | str] = {
        _printable(name[:MAX_NAME]): rows for name, rows in sorted(counts.items())[:MAX_NAMES]
    }
    if len(counts) > MAX_NAMES:
        told["further names"] = len(counts) - MAX_NAMES
    return [Transform(name="ignored_columns", counts=told)]


def _printable(name: str) -> str:
    """Return a name out of a file as it may stand on a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in name)
