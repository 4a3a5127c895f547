"""ServeGen's clients: how each of a service's clients sends, from which requests are drawn.

``chunk-N-trace.csv`` has no header: ``window_start_s, rate, cv, pattern, shape, scale`` for every
600 s, the pattern of gaps ``Gamma`` or ``Weibull``, or empty where the client is silent.
``chunk-N-dataset.json`` beside it has the lengths of every 21,600 s, as text that looks like a
Python dictionary of lengths and their shares. Source: github.com/alibaba/ServeGen. Read are one
client's CSV or a folder of clients. Each window is drawn as a stationary process of its rate and
shape: the mean is the window's, and the number of requests varies as such a process does. Input and
output are drawn apart. The draw is always the same one.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import gamma as gamma_function

from workloads.cleaning import Policy, Raw, clean
from workloads.errors import TraceError
from workloads.readers import measured
from workloads.readers.hints import Hints
from workloads.readers.source import read_lines
from workloads.trace import MAX_TOKENS, Trace
from workloads.where import Where, shown

ROW = re.compile(rb"^\s*[\d.eE+]+,[\d.eE+-]+,[\d.eE+-]*,(Gamma|Weibull|),[\d.eE+-]*,[\d.eE+-]*\s*$")
TRACE, LENGTHS = "-trace.csv", "-dataset.json"
COLUMNS = ("window_start_s", "rate", "cv", "pattern", "shape", "scale")
WINDOW_S = 600.0
KINDS = ("input_tokens", "output_tokens")
LEAST_SHAPE = {"Gamma": 0.005, "Weibull": 0.15}
MOST_SHAPE = 1e9
"""Below, a window holds none or a million requests; above, gaps are all alike."""

MOST_REQUESTS = 20_000_000
MOST_BYTES = 1 << 28
SEED = 0
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Shares of lengths in one window."""

    values: NDArray[np.int64]
    shares: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client: arrays of its windows, and the lengths known from each time on."""

    name: str
    start_s: Floats
    rate: Floats
    shape: Floats
    weibull: NDArray[np.bool_]
    lengths: dict[str, dict[float, Lengths]]


class ServeGen:
    """Draws requests of clients."""

    name = "servegen"

    def sniff(self, head: bytes, path: Path) -> bool:
        """Tell whether the first line is a client's window, or the folder holds clients."""
        if path.is_dir():
            return any(path.glob(f"*{TRACE}"))
        return ROW.match(head.split(b"\n", 1)[0].rstrip(b"\r")) is not None

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return a draw; raise ``TraceError`` naming the row or window that cannot be read."""
        measured.own_unit(path, hints.time_unit)
        files = sorted(path.glob(f"*{TRACE}")) if path.is_dir() else [path]
        clients = [read_client(file) for file in files]
        mean = sum(float(client.rate.sum()) * WINDOW_S for client in clients)
        if mean > MOST_REQUESTS:
            raise TraceError(
                f"{path}: its rates make {mean:,.0f} requests, at most {MOST_REQUESTS:,}"
            )
        streams = np.random.default_rng(SEED).spawn(len(clients))
        drawn = [draw(client, rng) for client, rng in zip(clients, streams, strict=True)]
        frame = pl.concat(drawn).sort("arrival_s", maintain_order=True)
        if not frame.height:
            raise TraceError(f"{path}: no request was drawn; its rates make {mean:.3g} in all")
        first = float(frame["arrival_s"][0])
        raw = Raw(
            path=str(path),
            format=self.name,
            frame=frame.with_columns(pl.col("arrival_s") - first),
            first_row=1,
            about={"warnings": (f"{path}: its requests are drawn from how its clients send",)},
        )
        return clean(raw, policy)


def read_client(path: Path) -> Client:
    """Return one client from its two files; raise ``TraceError`` for what they should not hold."""
    rows = list(_windows(path))
    start, rate, shape = (np.array([row[at] for row in rows], dtype=float) for at in range(3))
    weibull = np.array([row[3] for row in rows], dtype=bool)
    lengths = _lengths(path) if (rate > 0).any() else {kind: {} for kind in KINDS}
    return Client(
        name=path.name.removesuffix(TRACE),
        start_s=start,
        rate=rate,
        shape=shape,
        weibull=weibull,
        lengths=lengths,
    )


def _windows(path: Path) -> Iterator[tuple[float, float, float, bool]]:
    """Yield start, rate (0: silent), shape and whether gaps are Weibull's, of every window."""
    last = -WINDOW_S
    for lines in read_lines(path):
        for index, line in enumerate(lines.text):
            where = Where(str(path), lines.first_row + index)
            fields = [each.strip() for each in line.split(",")]
            if len(fields) != len(COLUMNS):
                where.fail(0, "the row", line, f"{len(COLUMNS)} fields, {','.join(COLUMNS)}")
            start, rate = (_number(fields[at], COLUMNS[at], where) for at in (0, 1))
            if start < last + WINDOW_S:
                where.fail(0, COLUMNS[0], fields[0], f"windows of {WINDOW_S:g} s, in order")
            last = start
            if fields[3] not in ("Gamma", "Weibull", ""):
                where.fail(0, "pattern", fields[3], "Gamma, Weibull or nothing")
            silent = rate == 0 or not fields[3]
            shape = 1.0 if silent else _number(fields[4], "shape", where)
            least = LEAST_SHAPE.get(fields[3], 0)
            if not least <= shape <= MOST_SHAPE:
                where.fail(0, "shape", fields[4], f"a number in {least}..{MOST_SHAPE:g}")
            yield start, 0.0 if silent else rate, shape, fields[3] == "Weibull"


def _number(text: str, name: str, where: Where) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e9:
        where.fail(0, name, text, "a number of at least 0")
    return value


def _lengths(path: Path) -> dict[str, dict[float, Lengths]]:
    """Return the known lengths by kind and the time they hold from."""
    file = path.with_name(path.name.removesuffix(TRACE) + LENGTHS)
    if not file.is_file() or file == path:
        raise TraceError(f"{path}: the lengths of its requests, {file.name}, are not beside it")
    if file.stat().st_size > MOST_BYTES:
        raise TraceError(f"{file}: is larger than {MOST_BYTES >> 20} MiB")
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise TraceError(f"{file}: is not one JSON object ({error})") from error
    if not isinstance(found, dict):
        raise TraceError(f"{file}: is {shown(found)}, expected an object of windows")
    known: dict[str, dict[float, Lengths]] = {kind: {} for kind in KINDS}
    for window, told in found.items():
        where = Where(str(file), 1, inside=f"window {shown(window)[1:-1]}")
        start = _number(window, "window", where)
        for kind in KINDS:
            shares = told.get(kind) if isinstance(told, dict) else None
            lengths = _shares(shares, kind, where)
            if lengths is not None:
                known[kind][start] = lengths
    for kind in KINDS:
        if not known[kind]:
            raise TraceError(f"{file}: holds no {kind} in any window")
    return known


def _shares(told: object, kind: str, where: Where) -> Lengths | None:
    """Return lengths and their shares from text such as ``{699: 0.009}``; ``None`` for ``{}``."""
    if told is None:
        return None
    try:
        found: Any = ast.literal_eval(told) if isinstance(told, str) else told
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        where.fail(0, kind, told, "a dictionary of lengths and shares")
    if not isinstance(found, dict):
        where.fail(0, kind, told, "a dictionary of lengths and shares")
    for length, share in found.items():
        numbers = all(type(each) in (int, float) for each in (length, share))
        if not numbers or not 0 <= length <= MAX_TOKENS or not 0 <= share <= 1e9:
            where.fail(0, kind, {length: share}, "a length in tokens and its share")
    shares = np.array(list(found.values()), dtype=float)
    if not shares.sum() > 0:
        return None
    return Lengths(np.array(list(found), dtype=float).astype(np.int64), shares / shares.sum())


def draw(client: Client, rng: np.random.Generator) -> pl.DataFrame:
    """Return a client's requests, in the order of its windows: arrivals and lengths."""
    times = [
        start + _window(rate, shape, weibull, rng)
        for start, rate, shape, weibull in zip(
            client.start_s, client.rate, client.shape, client.weibull, strict=True
        )
        if rate > 0
    ]
    arrivals = np.concatenate(times) if times else np.zeros(0)
    drawn = {kind: _drawn(arrivals, client.lengths[kind], rng) for kind in KINDS}
    columns = {"arrival_s": arrivals, **drawn}
    types = {"arrival_s": pl.Float64(), **dict.fromkeys(KINDS, pl.Int32())}
    return pl.DataFrame(columns, schema=types).with_columns(tenant=pl.lit(client.name))


def _window(rate: float, shape: float, weibull: bool, rng: np.random.Generator) -> Floats:
    """Return the arrivals within one window of a stationary renewal process."""
    scale = 1 / (rate * (float(gamma_function(1 + 1 / shape)) if weibull else shape))
    # the gap an instant lies in is longer than others, by how long it is
    longer = rng.gamma(1 + 1 / shape) ** (1 / shape) if weibull else rng.gamma(shape + 1)
    at = float(scale * longer * rng.random())
    parts: list[Floats] = []
    while at < WINDOW_S:
        size = (int(1.2 * rate * (WINDOW_S - at)) + 16) << min(len(parts), 10)
        gaps = scale * (rng.weibull(shape, size) if weibull else rng.gamma(shape, size=size))
        times = at + np.concatenate(([0.0], np.cumsum(gaps)))
        parts.append(times[:-1])
        at = float(times[-1])
    arrivals = np.concatenate(parts) if parts else np.zeros(0)
    return np.asarray(arrivals[arrivals < WINDOW_S])


def _drawn(
    arrivals: Floats, known: dict[float, Lengths], rng: np.random.Generator
) -> NDArray[np.int32]:
    """Return a length for each arrival, from the nearest time at which lengths are known."""
    tokens = np.zeros(arrivals.size, dtype=np.int32)
    if not arrivals.size:
        return tokens
    starts = np.array(sorted(known))
    after = np.searchsorted(starts, arrivals, side="right")
    before = np.clip(after - 1, 0, starts.size - 1)
    for at in np.unique(before):
        here = np.flatnonzero(before == at)
        lengths = known[float(starts[at])]
        tokens[here] = rng.choice(lengths.values, size=here.size, p=lengths.shares)
    return tokens
