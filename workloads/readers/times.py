"""When requests arrived: dates in ISO 8601, or numbers whose unit is stated, recognised or asked.

A unit is never guessed in silence: what the file's own magnitude decides (seconds, ms, µs or ns
since 1970) is said in a warning, what it leaves open is refused or warned of with the setting that
answers it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

import numpy as np
import polars as pl

from workloads import checks
from workloads.errors import TraceError
from workloads.parts import parts_of
from workloads.where import Where, shown

UNITS: Mapping[str, int] = MappingProxyType({"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1})
"""Nanoseconds of each unit ``time_unit`` may name."""

AUTO = "auto"
WORDS = MappingProxyType(
    {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
)
LAST_NS = 9_000_000_000_000_000_000
"""The latest instant (year 2255) that nanoseconds in 64 bits can hold."""

EPOCH_S = (1_000_000_000, 4_000_000_000)
"""Seconds since 1970 of the years 2001 to 2096: numbers in this range, or in it times 10^3, 10^6
or 10^9, are taken for clock times of that unit."""

LONGEST_EPOCH_S = 400 * 86_400
"""A trace of more than 400 days is more likely one of another unit."""

BUSY_GAP_S = 0.01
"""Over 100 requests/s on average: more than any published trace, and what seconds read as
milliseconds look like."""

SPARSE_GAP_S = 3600.0
FRACTIONS_GAP_S = 0.1
"""Fractions of a unit that is counted in whole numbers, at over 10 requests/s on average: as
likely seconds, at one request in up to 100 s."""

DOUBTED_GAP_S = 10.0
"""Fractions at up to this mean gap are read but doubted: seconds would be a request in 3 hours."""

OFFSET = re.compile(r"\d\s*(?:[Zz]|UTC|[+-]\d\d(?::?\d\d)?)\s*$")
"""What ends a time of day that bears an offset from UTC."""

SHAPE = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.(?P<fraction>\d{1,9}))?(?P<offset>Z|[+-]\d\d:\d\d)?"
)
"""The shape most files write all their dates in."""

NO_SECONDS = r"^(\S+ \d\d:\d\d)(\s*(?:[Zz]|UTC|[+-]\d\d\S*)?)$"
"""A time of day in hours and minutes alone, with or without an offset."""

LAST_YEAR = "2261"
"""The last whole year 64 bits of nanoseconds since 1970 can count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Arrival times as nanoseconds: ``ns`` (Int64, any origin) and what is known of the clock.

    ``utc_offset`` is as in :class:`workloads.cleaning.Raw`, ``unit`` the numbers' unit or the
    dates' resolution.
    """

    ns: pl.Series
    unit: str
    utc_offset: str | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How a format writes its times: in the unit ``native`` (``None``: as dates) or the ``stated``.

    ``whole`` says that the format counts in whole units, so that a fraction is suspicious.
    """

    native: str | None
    stated: str = AUTO
    whole: bool = False

    def __post_init__(self) -> None:
        checks.one_of("trace", "time_unit", self.stated, (AUTO, *UNITS))

    def numbers(self, times: pl.Series, where: Where) -> Times:
        """Return numeric ``times`` (Int64 or Float64, without nulls) of a whole file in ns."""
        where.require(times.is_finite() & (times >= 0), times, "a number of at least 0")
        span = _Span(times, where)
        epoch = span.epoch_unit()
        stated = (self.stated, ())
        unit, warnings = self._recognised(span, epoch) if self.stated == AUTO else stated
        most = LAST_NS // UNITS[unit]
        where.require(times <= most, times, f"{WORDS[unit]} in 0..{most}")
        utc_offset = "+00:00" if unit == epoch else None
        return Times(
            ns=_counted(times, UNITS[unit]), unit=unit, utc_offset=utc_offset, warnings=warnings
        )

    def _recognised(self, span: "_Span", epoch: str | None) -> tuple[str, tuple[str, ...]]:
        """Return the unit the numbers are taken to be in, and what to say about it."""
        if epoch is not None:
            return epoch, (() if epoch == self.native else (span.told_epoch(epoch, self.native),))
        if self.native is None:
            span.refuse_unknown()
        gap_s = span.mean_gap * UNITS[self.native] / 1e9
        found = span.fraction() if self.whole and 0 < gap_s < DOUBTED_GAP_S else None
        if found is not None and gap_s < FRACTIONS_GAP_S:
            span.refuse_fraction(found, self.native)
        busy = self.whole and 0 < gap_s < BUSY_GAP_S
        doubtful = busy or gap_s > SPARSE_GAP_S or found is not None
        return self.native, (span.told_rate(self.native),) if doubtful else ()

    def dates(self, text: pl.Series, where: Where, *, utc_offset: bool) -> pl.Series:
        """Return ISO 8601 ``text`` of one batch as Int64 ns since 1970.

        Times that bear an offset from UTC are taken to UTC, others are left as they stand.
        """
        if self.stated != AUTO:
            raise TraceError(
                f"{where.path}: {text.name} holds dates such as {shown(text[0])}, so time_unit "
                f"must be {AUTO} but is {self.stated}"
            )
        return dates_ns(text, where, utc_offset=utc_offset)


def _counted(times: pl.Series, unit_ns: int) -> pl.Series:
    """Return numbers of a unit as Int64 ns, whole numbers exactly."""
    ns, at = np.empty(times.len(), dtype=np.int64), 0
    for part in parts_of(times):
        whole = part.astype(np.int64)
        fraction = np.rint((part - whole) * unit_ns).astype(np.int64)
        ns[at : at + part.size] = whole * unit_ns + fraction
        at += part.size
    return pl.Series(times.name, ns)


def dates_ns(text: pl.Series, where: Where, *, utc_offset: bool) -> pl.Series:
    """Return dates with a time of day as Int64 ns since 1970: ISO 8601, up to 9 digits of seconds.

    Between date and time stands a ``T`` or a space, the fraction and even the seconds may be
    missing, and the offset, which all rows have (``utc_offset``) or none, may be ``Z``.
    """
    ns = _of_one_shape(text, utc_offset=utc_offset)
    if ns is not None:
        return ns
    plain = text.str.strip_chars()
    if plain.str.contains("[Tt,]").any():
        plain = plain.str.replace(r"^(\S{8,10})[Tt]", "$1 ").str.replace(r"(:\d\d),", "$1.")
    if plain.str.contains(NO_SECONDS).any():
        plain = plain.str.replace(NO_SECONDS, "$1:00$2")
    if utc_offset and plain.str.contains("[ZzC]$").any():
        plain = plain.str.replace(r"\s*(?:[Zz]|UTC)$", "+00:00")
    pattern = "%Y-%m-%d %H:%M:%S%.f" + ("%#z" if utc_offset else "")
    times = plain.str.to_datetime(pattern, time_unit="ns", strict=False)
    year = plain.str.slice(0, 4)
    in_range = (year >= "1970") & (year <= LAST_YEAR)
    example = "2024-05-10 00:00:00.009930" + ("+00:00" if utc_offset else "")
    where.require(times.is_not_null() & in_range, text, f"a time like {example}")
    return times.to_physical()


def _of_one_shape(text: pl.Series, *, utc_offset: bool) -> pl.Series | None:
    """Return dates that are all written alike, as ns; ``None`` leaves them to be read one by one.

    Only minutes are read as dates, each run of equal ones once; seconds are numbers.
    """
    first = SHAPE.fullmatch(text[0] or "") if text.len() and not text.null_count() else None
    widths = text.str.len_bytes()
    if first is None or (first["offset"] is not None) != utc_offset or widths.min() != widths.max():
        return None
    digits, tail = len(first["fraction"] or ""), re.escape(first["offset"] or "")
    fraction = rf"\.[0-9]{{{digits}}}" if digits else ""
    if not text.str.contains(rf"^.{{16}}:[0-5][0-9]{fraction}{tail}$").all():
        return None
    runs = text.str.slice(0, 16).rle().struct
    minutes = (
        runs.field("value").str.replace("T", " ", literal=True)
        + ":00"
        + ((first["offset"] or "").replace("Z", "+00:00"))
    )
    pattern = "%Y-%m-%d %H:%M:%S" + ("%#z" if utc_offset else "")
    times = minutes.str.to_datetime(pattern, time_unit="ns", strict=False)
    year = runs.field("value").str.slice(0, 4)
    if times.null_count() or not ((year >= "1970") & (year <= LAST_YEAR)).all():
        return None
    ns = np.repeat(times.to_physical().to_numpy(), runs.field("len").to_numpy())
    ns += text.str.slice(17, 2).cast(pl.UInt8).to_numpy() * np.int64(10**9)
    if digits:
        ns += text.str.slice(20, digits).cast(pl.UInt32).to_numpy() * np.int64(10 ** (9 - digits))
    return pl.Series(text.name, ns)


def resolution(ns: pl.Series) -> str:
    """Return the coarsest of s, ms, us, 100ns and ns that all times are whole multiples of."""
    steps = {"s": 10**9, "ms": 10**6, "us": 10**3, "100ns": 100, "ns": 1}
    for part in parts_of(ns):
        steps = {name: step for name, step in steps.items() if (part % step == 0).all()}
    return next(iter(steps))


class _Span:
    """A file's numeric times as a whole, for messages."""

    def __init__(self, times: pl.Series, where: Where) -> None:
        self._times, self._where = times, where
        self._low, self._high = (float(each) for each in (times.min(), times.max()))  # type: ignore[arg-type]
        self._count = times.len()

    @property
    def mean_gap(self) -> float:
        """The mean gap between arrivals in the numbers' unit; 0 for a single instant."""
        return (self._high - self._low) / max(1, self._count - 1)

    def epoch_unit(self) -> str | None:
        """Return the unit in which all times are clock times of this century, if there is one."""
        for name, ns in UNITS.items():
            scale = 10**9 // ns
            within = EPOCH_S[0] * scale <= self._low and self._high < EPOCH_S[1] * scale
            if within and self._high - self._low <= LONGEST_EPOCH_S * scale:
                return name
        return None

    def fraction(self) -> int | None:
        """Return the first row with a time that is not a whole number."""
        if self._times.dtype.is_integer():
            return None
        odd = (self._times != self._times.floor()).arg_true()
        return int(odd[0]) if odd.len() else None

    def told_epoch(self, unit: str, native: str | None) -> str:
        """Return that the numbers were taken for clock times, and how to say otherwise."""
        other = (
            f"; workload.time_unit={native} takes them as the format's {WORDS[native]}"
            if native
            else ""
        )
        return (
            f"{self._name}: {self._times.name} {self._times[0]} looks like {WORDS[unit]} since "
            f"1970 and is read as such{other}"
        )

    def told_rate(self, native: str) -> str:
        """Return that the rate is unusual, and how to name another unit."""
        return (
            f"{self._name}: read as {WORDS[native]}, the format's unit, {self._rate(native)}; if "
            f"{self._times.name} counts something else, say so with {_setting(native)}"
        )

    def refuse_fraction(self, index: int, native: str) -> NoReturn:
        """Raise ``TraceError`` for a fraction where the format counts whole numbers."""
        raise TraceError(
            f"{self._where.path}: row {self._where.first_row + index}, {self._times.name} is "
            f"{self._times[index]}, but the format counts whole {WORDS[native]}, and read so "
            f"{self._rate(native)}: say what it counts with {_setting(native)}, {native} if it does"
        )

    def refuse_unknown(self) -> NoReturn:
        """Raise ``TraceError`` where nothing tells the unit."""
        self._where.fail(
            0,
            self._times.name,
            self._times[0],
            f"a date like 2024-05-10 00:00:00.5, or numbers whose unit is given: {_setting()}",
        )

    @property
    def _name(self) -> str:
        return self._where.path

    def _rate(self, unit: str) -> str:
        gap_s = self.mean_gap * UNITS[unit] / 1e9
        count = f"{self._count:,} requests come"
        if gap_s > 1:
            return f"{count} one in {gap_s:,.0f} s on average"
        return f"{count} at {1 / gap_s:,.0f}/s on average"


def _setting(native: str | None = None) -> str:
    """Return the setting that names a unit, without the one that is in doubt."""
    others = [name for name in UNITS if name != native]
    return f"workload.time_unit={', '.join(others[:-1])} or {others[-1]}"
