"""What a load generator tells of a whole run: statistics, without single requests.

AIPerf's ``profile_export_aiperf.json`` and ``.csv``, and GenAI-Perf's alike, hold a mean and
percentiles of each latency. Sources: AIPerf's guide to its export files; GenAI-Perf's CSV differs
in the case of its names and has commas in large numbers.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError

MOST_BYTES = 16 << 20
"""Of a file; what is larger holds more than statistics."""

NAMES: Mapping[str, str] = {
    "time_to_first_token": "ttft_s",
    "inter_token_latency": "tpot_s",
    "request_latency": "e2e_s",
}
"""Its metrics by our names: its inter-token latency is a mean of each request, our TPOT."""

UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}
_HEAD = re.compile(r"(?P<name>[^()]+)\((?P<unit>[^()]*)\)\s*")
_RANK = re.compile(r"p(\d{1,2})")

Statistics = Mapping[str, float]
"""Seconds by ``mean`` and ``p1`` to ``p99``, as far as they are told."""


class NoStatisticsError(ConfigError):
    """A file that is none of statistics of latencies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregates:
    """Statistics in the file ``path`` (``None``: there are none)."""

    path: str | None = None

    def read(self) -> dict[str, Statistics]:
        """Return the statistics of each latency that the file tells, by our names.

        Raises:
            NoStatisticsError: the file cannot be read as such, or tells of no latency.
            ConfigError: it tells of one that is no time.
        """
        if self.path is None:
            return {}
        path = Path(self.path)
        try:
            if path.stat().st_size > MOST_BYTES:
                raise NoStatisticsError(
                    f"measured.path: {path} is too large for a run's statistics"
                )
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise NoStatisticsError(f"measured.path: {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise NoStatisticsError(f"measured.path: {path}: not UTF-8 text") from error
        rows = _of_json(text, path) if text.lstrip().startswith("{") else _of_csv(text)
        found = {
            name: told for name, unit, each in rows if (told := _seconds(path, name, unit, each))
        }
        if not found:
            raise NoStatisticsError(
                f"measured.path: {path}: expected statistics of {', '.join(NAMES)}, as in AIPerf's "
                "profile_export_aiperf.json or .csv; single requests are read with "
                "workload=trace workload.path=…"
            )
        return found


Rows = Iterator[tuple[str, object, Mapping[str, object]]]


def _of_json(text: str, path: Path) -> Rows:
    """Yield our name, the unit and the statistics of each latency in a JSON export."""
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoStatisticsError(f"measured.path: {path}: not JSON: {error}") from error
    for theirs, ours in NAMES.items():
        told = content.get(theirs)
        if isinstance(told, dict):
            yield ours, told.get("unit"), told


def _of_csv(text: str) -> Rows:
    """Yield the same of a CSV export: tables below each other, each with a head."""
    heads: list[str] = []
    for cells in csv.reader(io.StringIO(text)):
        if cells and cells[0].strip().lower() == "metric":
            heads = [cell.strip().lower() for cell in cells]
            continue
        named = _HEAD.fullmatch(cells[0]) if cells and heads else None
        ours = NAMES.get("_".join(named["name"].lower().split())) if named else None
        if named and ours:
            yield ours, named["unit"].strip(), dict(zip(heads[1:], cells[1:], strict=False))


def _seconds(path: Path, name: str, unit: object, told: Mapping[str, object]) -> Statistics:
    if unit not in UNITS:
        raise ConfigError(
            f"measured.path: {path}: the unit of {name} must be one of {', '.join(UNITS)} but got "
            f"{unit!r}"
        )
    found = {}
    for key, value in told.items():
        ours = "mean" if key == "avg" else key
        if value in (None, "") or not (ours == "mean" or _RANK.fullmatch(ours)):
            continue
        found[ours] = UNITS[str(unit)] * _number(f"{path}: {name}.{key}", value)
    return found


def _number(what: str, value: object) -> float:
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str) and re.fullmatch(r"[\d,]*\.?\d+(?:[eE][-+]?\d+)?", value.strip()):
        number = float(value.replace(",", ""))
    if not 0 <= number < math.inf:
        raise ConfigError(f"measured.path: {what} must be a number of at least 0 but got {value!r}")
    return number
