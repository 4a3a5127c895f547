"""Ids of the prompt's KV blocks, from the lists of a JSON field to runs of consecutive ids."""

from typing import Any

import numpy as np
import polars as pl

from workloads.readers.prompts import as_lists
from workloads.where import Where

MAX_BLOCK_ID = 2**32 - 1
LEAST_HASH = -(2**31)
"""Below this a number can only be a signed 64-bit hash; a small negative id is a mistake."""


class HashesError(Exception):
    """The ids are hashes, not counters: they have to be numbered in order of appearance."""


class Counters:
    """Takes ids of 0 to 2^32 - 1 as they stand."""

    dtype = pl.List(pl.Float64)
    distinct = 0

    def numbered(self, flat: pl.Series, owner: np.ndarray[Any, Any], where: Where) -> pl.Series:
        """Return ``flat`` as UInt32; raise :class:`HashesError` where an id is none of those."""
        if flat.dtype == pl.String:
            raise HashesError
        ids = flat.to_numpy()
        wrong = np.flatnonzero(~((ids >= 0) & (ids == np.floor(ids))))
        hashes = (ids > MAX_BLOCK_ID) | (ids < LEAST_HASH)
        if wrong.size and not hashes[wrong[0]]:
            at = int(wrong[0])
            where.fail(int(owner[at]), "hash_ids", float(ids[at]), "whole ids of at least 0")
        if hashes.any():
            raise HashesError
        return flat.cast(pl.UInt32)


class Hashes:
    """Numbers ids of any size, or text, by their first appearance in the file."""

    dtype = pl.List(pl.String)

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    @property
    def distinct(self) -> int:
        """How many hashes there have been so far."""
        return len(self._known)

    def numbered(self, flat: pl.Series, owner: np.ndarray[Any, Any], where: Where) -> pl.Series:
        """Return the numbers of ``flat`` as UInt32."""
        wrong = flat.str.contains(r"^(-\d{1,9}|-?\d+\.\d*|\s*)$").fill_null(value=True).arg_true()
        if wrong.len():
            at = int(wrong[0])
            where.fail(int(owner[at]), "hash_ids", flat[at], "hashes, or whole ids of at least 0")
        found = flat.unique(maintain_order=True)
        numbers = [self._known.setdefault(each, len(self._known)) for each in found]
        if not numbers:
            return flat.cast(pl.UInt32)
        return flat.replace_strict(found, numbers, return_dtype=pl.UInt32)


def block_runs(
    ids: pl.Series, limit: pl.Series, numbering: Counters | Hashes, where: Where
) -> pl.Series:
    """Return lists of block ids as lists of runs of consecutive ids; null stays null.

    ``limit`` is how many ids each row's prompt can have.
    """
    counts = ids.list.len()
    fits = (counts.cast(pl.Int64) <= limit).fill_null(value=True)
    where.require(fits, counts.alias("number of hash_ids"), f"at most {limit.name}")
    lengths = counts.fill_null(0).to_numpy()
    owner = np.repeat(np.arange(lengths.size), lengths)
    flat = ids.drop_nulls().explode(empty_as_null=False)
    if flat.null_count():
        at = int(flat.is_null().arg_true()[0])
        where.fail(int(owner[at]), "hash_ids", None, "a list of block ids")
    numbers = numbering.numbered(flat, owner, where).to_numpy()
    return _as_runs(numbers.astype(np.int64), owner, ids.is_null())


def _as_runs(
    flat: np.ndarray[Any, Any], owner: np.ndarray[Any, Any], absent: pl.Series
) -> pl.Series:
    """Cut ``flat`` wherever the row changes or an id does not follow the one before."""
    new = np.ones(flat.size, dtype=bool)
    new[1:] = (np.diff(flat) != 1) | (np.diff(owner) != 0)
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, flat.size))
    return as_lists(owner[starts], flat[starts], counts, absent)
