"""How much of a GPU's data sheet its kernels reach: small fitted tables, shipped as YAML.

One file per architecture under ``conf/calibration``, written by ``scripts/calibrate`` with its
source and fit error. An architecture nobody measured names the nearest one it inherits from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from simulator.errors import ConfigError
from simulator.latency.passes import PEAK_OF
from simulator.yaml_text import parse

SHIPPED = "conf"
FOLDER = "calibration"
MOE_FAMILY = "moe_{}"
"""Name of the kernels of experts by one of the backends an engine can be given (``engines``)."""
MOVING = ("quantise", "scaling", "prefill_recurrence", "decode_recurrence")
"""Kernels that are taken to only read and write where nobody measured them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One kernel family's efficiency.

    A call takes ``floor_s + max(C, M) + overlap · min(C, M)`` with
    ``C = (FLOPs + ramp · FLOPs of one more row + narrow · FLOPs of one more column) / (peak ·
    compute)`` and ``M = (bytes + thin · bytes of one more column) / (bandwidth · memory)``:
    ``compute`` and ``memory`` are the fractions reached by large shapes, ``ramp`` the rows (or
    keys), ``narrow`` the columns at which half of that compute and ``thin`` the columns (or a
    decoding sequence's keys) at which half of that bandwidth is reached, as fewer do not give
    all of a GPU's multiprocessors some to read, and ``overlap`` the share of the lesser side that
    is not hidden behind the greater. Of experts ``thin`` is bytes per value of every token that
    comes to their rank, which their kernels move beside what the experts themselves read and write:
    routing, quantising, the sum of what a token's experts answer.
    """

    compute: float
    memory: float
    floor_s: float
    ramp: float = 0.0
    narrow: float = 0.0
    overlap: float = 0.0
    thin: float = 0.0

    def __post_init__(self) -> None:
        _within("compute", self.compute, 0.0, 1.0)
        _within("memory", self.memory, 0.0, 1.0)
        _within("overlap", self.overlap, -1e-12, 1.0)
        _within("floor_s", self.floor_s, -1e-12, 1.0)
        _within("ramp", self.ramp, -1e-12, 1e6)
        _within("narrow", self.narrow, -1e-12, 1e6)
        _within("thin", self.thin, -1e-12, 1e6)

    def slowed(self, factor: float) -> "Curve":
        """Return the curve of kernels that take ``factor`` times as long."""
        return replace(
            self,
            compute=min(1.0, self.compute / factor),
            memory=min(1.0, self.memory / factor),
            floor_s=self.floor_s * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCurve:
    """One collective's α and β inside a scale-up domain.

    ``alpha_s + rank_alpha_s · (ranks − 1)`` seconds to start, then traffic at the fraction
    ``bandwidth · (2 / ranks)^sharing`` of the link: ports that meet in one bridge share it.
    """

    alpha_s: float
    rank_alpha_s: float = 0.0
    bandwidth: float = 1.0
    sharing: float = 0.0

    def __post_init__(self) -> None:
        _within("alpha_s", self.alpha_s, -1e-12, 1.0)
        _within("rank_alpha_s", self.rank_alpha_s, -1e-12, 1.0)
        _within("bandwidth", self.bandwidth, 0.0, 1.0)
        _within("sharing", self.sharing, -1e-12, 4.0)

    def reached(self, ranks: int) -> float:
        """Return the fraction of the link that traffic among ``ranks`` reaches."""
        if self.sharing == 0.0 or ranks <= 2:
            return self.bandwidth
        return float(self.bandwidth * (2.0 / ranks) ** self.sharing)


Kernels = Mapping[str, Mapping[str, Curve]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Everything fitted for one architecture.

    ``kernels`` maps kind → dtype → :class:`Curve`, ``engines`` the same by serving engine where
    its kernels differ and by backend of experts (:data:`MOE_FAMILY`), ``collectives`` algorithm →
    :class:`CollectiveCurve`. ``measured_on`` lists the GPUs whose measurements it was fitted to.
    ``inherits`` names the parent that stands in for an architecture nobody measured;
    ``measured_on`` is the parent's then. A measured one may take from a parent what it does not
    state itself.
    """

    architecture: str
    kernels: Kernels
    collectives: Mapping[str, CollectiveCurve]
    network: CollectiveCurve
    moe_skew: float
    engines: Mapping[str, Kernels] = field(default_factory=dict)
    all_reduce: str = ""
    measured_on: tuple[str, ...] = ()
    inherits: str | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.moe_skew >= 1.0:
            raise ConfigError(f"calibration: moe_skew must be at least 1 but got {self.moe_skew!r}")

    def for_engine(
        self, engine: str, factor: float = 1.0, moe_backend: str | None = None
    ) -> "Efficiency":
        """Return this efficiency with the kernels of one serving engine.

        They take ``factor`` times as long, yet never less than the data sheet allows. Experts are
        those of ``moe_backend`` in the dtypes that it was measured apart in.
        """
        kernels = _merged(self.kernels, self.engines.get(engine, {}))
        if moe_backend is not None:
            kernels = _merged(kernels, self.engines.get(MOE_FAMILY.format(moe_backend), {}))
        if factor != 1.0:
            kernels = {
                kind: {dtype: curve.slowed(factor) for dtype, curve in curves.items()}
                for kind, curves in kernels.items()
            }
        return replace(self, kernels=kernels)

    def curve(self, kind: str, dtype: str) -> Curve:
        """Return the curve of a kernel kind, of ``dtype`` or what stands in for it."""
        return self._curves(kind)[self.stand_in(kind, dtype)]

    def _curves(self, kind: str) -> Mapping[str, Curve]:
        """Return a kind's curves by dtype, those of reads and writes for some where need be."""
        curves = self.kernels.get(kind) or self.kernels.get("memory" if kind in MOVING else "")
        if not curves:
            raise ConfigError(f"calibration {self.architecture}: no curve for kernel {kind!r}")
        return curves

    def stand_in(self, kind: str, dtype: str) -> str:
        """Return ``dtype`` or, where it has no curve, one computed at the same peak, or any."""
        curves = self._curves(kind)
        if dtype in curves:
            return dtype
        same = [name for name in curves if PEAK_OF[name] == PEAK_OF[dtype]]
        return same[0] if same else next(iter(curves))


def load(architecture: str, folder: str | None = None) -> Efficiency:
    """Return the efficiency of ``architecture``, read from ``folder`` (default: the shipped one).

    Raises ``ConfigError`` for an unknown architecture, naming the known ones, and for a file that
    does not hold what it should.
    """
    root = _root(folder)
    raw = _read(root, architecture)
    parent = raw.get("inherits")
    try:
        if parent is None:
            return _measured(raw)
        return _inherited(raw, _measured(_read(root, str(parent))))
    except ConfigError as error:
        raise ConfigError(f"calibration {architecture}.yaml: {error}") from error


def known(folder: str | None = None) -> list[str]:
    """Return the architectures ``folder`` (default: the shipped one) has a file for."""
    return sorted(_names(_root(folder)))


def _root(folder: str | None) -> Traversable:
    return Path(folder) if folder else resources.files(SHIPPED) / FOLDER


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low < value <= high:
        raise ConfigError(f"{name} must lie in ({max(low, 0.0):g}, {high:g}] but got {value!r}")


def _names(root: Traversable) -> Iterator[str]:
    if root.is_dir():
        for entry in root.iterdir():
            if entry.name.endswith(".yaml"):
                yield entry.name.removesuffix(".yaml")


def _read(root: Traversable, architecture: str) -> dict[str, Any]:
    path = root / f"{architecture}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(_names(root))) or "none"
        raise ConfigError(
            f"calibration: no file for GPU architecture {architecture!r} in {root}; there are: "
            f"{names}. Set the GPU's architecture to the nearest of these, or give "
            "latency.calibration a folder with a file for it"
        )
    try:
        raw = parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"calibration {architecture}.yaml: not readable as YAML") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"calibration {architecture}.yaml: expected a mapping at the top level")
    return raw


def _measured(raw: Mapping[str, Any]) -> Efficiency:
    """Return a file that holds everything itself."""
    for name in ("architecture", "kernels", "collectives", "network", "moe_skew", "measured_on"):
        if name not in raw:
            raise ConfigError(f"{name} is missing")
    return Efficiency(
        architecture=str(raw["architecture"]),
        kernels=_kernels(raw["kernels"], "kernels"),
        collectives=_collectives(raw["collectives"]),
        network=_curve(raw["network"], CollectiveCurve, "network"),
        moe_skew=float(raw["moe_skew"]),
        engines=_engines(raw),
        measured_on=tuple(raw["measured_on"]),
        source=str(raw.get("source", "")),
    )


def _inherited(raw: Mapping[str, Any], base: Efficiency) -> Efficiency:
    """Return ``base`` with what the file states in place of its own."""
    collectives = _collectives(raw.get("collectives") or {})
    engines = _engines(raw)
    return replace(
        base,
        architecture=str(raw.get("architecture", base.architecture)),
        kernels=_merged(base.kernels, _kernels(raw.get("kernels") or {}, "kernels")),
        engines={
            name: _merged(base.engines.get(name, {}), engines.get(name, {}))
            for name in {**base.engines, **engines}
        },
        measured_on=tuple(raw.get("measured_on") or base.measured_on),
        collectives={**base.collectives, **collectives},
        inherits=None if "measured_on" in raw else str(raw["inherits"]),
        source=str(raw.get("source", base.source)),
    )


def _engines(raw: Mapping[str, Any]) -> dict[str, Kernels]:
    return {
        name: _kernels(table, f"engines.{name}")
        for name, table in _mapping(raw.get("engines") or {}, "engines").items()
    }


def _kernels(raw: object, key: str) -> Kernels:
    return {
        kind: {
            dtype: _curve(values, Curve, f"{key}.{kind}.{dtype}")
            for dtype, values in _mapping(by_dtype, f"{key}.{kind}").items()
        }
        for kind, by_dtype in _mapping(raw, key).items()
    }


def _collectives(raw: object) -> dict[str, CollectiveCurve]:
    table = _mapping(raw, "collectives")
    return {name: _curve(v, CollectiveCurve, f"collectives.{name}") for name, v in table.items()}


def _merged(base: Kernels, over: Kernels) -> Kernels:
    """Return ``base`` with the curves of ``over`` in place of its own."""
    kinds = {**base, **over}
    return {kind: {**base.get(kind, {}), **over.get(kind, {})} for kind in kinds}


def _mapping(raw: object, key: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{key} must be a mapping but got {raw!r}")
    return raw


AnyCurve = TypeVar("AnyCurve", Curve, CollectiveCurve)


def _curve(raw: object, kind: type[AnyCurve], key: str) -> AnyCurve:
    """Build a curve from its numbers, turning the file's ``…_us`` into seconds."""
    numbers = {}
    for name, value in _mapping(raw, key).items():
        if type(value) not in (int, float):
            raise ConfigError(f"{key}.{name} must be a number but got {value!r}")
        micro = name.endswith("_us")
        numbers[name.removesuffix("_us") + "_s" if micro else name] = value * (1e-6 if micro else 1)
    try:
        return kind(**numbers)
    except (TypeError, ConfigError) as error:
        reason = str(error).partition("__init__() ")[2] or str(error)
        raise ConfigError(f"{key}: {reason}") from error
