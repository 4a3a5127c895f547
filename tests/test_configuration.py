"""From a plain mapping to a checked object: what is accepted, and what is refused by its name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cli import compose
from simulator.configuration import build
from simulator.errors import ConfigError
from simulator.experiment import config_text


class Shape(Protocol):
    """Anything with an area."""

    def area(self) -> float:
        """Return the area."""
        ...


@dataclass(frozen=True, kw_only=True)
class Square:
    """A shape."""

    side: float

    def area(self) -> float:
        """Return the area."""
        return self.side**2

    def __post_init__(self) -> None:
        if self.side < 0:
            raise ValueError(f"side must be at least 0 m but got {self.side!r}")


@dataclass(frozen=True, kw_only=True)
class Board:
    """Something with a field of every kind."""

    count: int = 1
    length: float = 1.0
    on: bool = False
    name: str = ""
    path: Path = Path()
    limit: int | None = None
    either: int | str = 0
    kind: Literal["a", "b"] = "a"
    sizes: tuple[float, ...] = ()
    pair: tuple[int, str] = (0, "")
    peaks: Mapping[str, float] = field(default_factory=dict)
    base: Square | None = None
    shape: Shape | None = None


SQUARE = f"{__name__}.Square"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"count": 3}, Board(count=3)),
        ({"count": 1e6}, Board(count=1_000_000)),
        ({"length": 2}, Board(length=2.0)),
        ({"path": "a/b"}, Board(path=Path("a/b"))),
        ({"limit": None}, Board()),
        ({"limit": 4}, Board(limit=4)),
        ({"either": "x"}, Board(either="x")),
        ({"kind": "b"}, Board(kind="b")),
        ({"sizes": [1, 2.5]}, Board(sizes=(1.0, 2.5))),
        ({"pair": [1, "x"]}, Board(pair=(1, "x"))),
        ({"peaks": {"bf16": 1}}, Board(peaks={"bf16": 1.0})),
        ({"base": {"side": 2}}, Board(base=Square(side=2.0))),
        ({"shape": {"_target_": SQUARE, "side": 2}}, Board(shape=Square(side=2.0))),
    ],
)
def test_values_become_what_the_field_says(settings: dict[str, Any], expected: Board) -> None:
    """Whole floats, missing targets, lists and nested mappings turn into the declared types."""
    built = build(settings, Board, "board")
    assert built == expected
    assert [type(getattr(built, name)) for name in settings] == [
        type(getattr(expected, name)) for name in settings
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cuont": 3}, "board.cuont: no such setting; did you mean count?"),
        ({"zork": 3, "zorc": 4}, "board.zork: no such setting; known: base, count"),
        ({"side": 3}, r"board.side: no such setting; did you mean board.base.side\?"),
        ({"base": {"limit": 3}}, r"board.base.limit: .* did you mean board.limit\?"),
        ({"count": 2.5}, "board.count must be a whole number but got 2.5"),
        ({"count": True}, "board.count must be a whole number but got True"),
        ({"count": "3"}, "board.count must be a whole number but got '3'"),
        ({"length": "far"}, "board.length must be a number but got 'far'"),
        ({"length": 10**400}, "board.length must be a number of at most 308 digits"),
        ({"on": 1}, "board.on must be true or false but got 1"),
        ({"name": 5}, "board.name must be text but got 5"),
        ({"name": None}, "board.name must be text but got None"),
        ({"either": True}, "board.either must be a whole number or text but got True"),
        ({"limit": "x"}, "board.limit must be a whole number but got 'x'"),
        ({"kind": "c"}, "board.kind must be one of a, b but got 'c'"),
        ({"sizes": 3}, "board.sizes must be"),
        ({"sizes": [1, "x"]}, r"board.sizes\[1\] must be a number but got 'x'"),
        ({"pair": [1]}, "board.pair must be 2 values"),
        ({"count": {"a": 1}}, "board.count must be a whole number but got a group of settings"),
        ({"count": [1]}, "board.count must be a whole number"),
        ({"peaks": {"bf16": "fast"}}, "board.peaks.bf16 must be a number"),
        ({"base": {}}, "board.base.side is missing"),
        ({"base": {"side": -1}}, "board.base: side must be at least 0 m but got -1"),
        ({"base": 3}, r"board.base must be a group of settings \(.*side.*\) but got 3"),
        ({"shape": {"side": 2}}, "board.shape._target_ is missing"),
        ({"shape": {"_target_": "pathlib.Path"}}, "board.shape must be Shape or null but got a"),
        ({"shape": {"_target_": "Square"}}, "must be a dotted name"),
        ({"shape": {"_target_": 3}}, "must be a dotted name"),
        ({"shape": {"_target_": "no.where"}}, "cannot import 'no.where'"),
        ({"shape": {"_target_": "math.pi"}}, "is not a class or function"),
    ],
)
def test_what_is_refused_is_named(settings: dict[str, Any], words: str) -> None:
    """Every refusal gives the key's full path, the value, and what was expected."""
    with pytest.raises(ConfigError, match=words):
        build(settings, Board, "board")


WORDS = st.sampled_from(["", "a", "b", "side", "_target_", "math.pi", SQUARE])
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(Board.__dataclass_fields__)), PLAIN))
def test_any_settings_are_built_or_refused(given_settings: dict[str, Any]) -> None:
    """Whatever the mapping holds, the answer is an object or a sentence, never another error."""
    try:
        built = build(given_settings, Board, "board")
    except ConfigError as error:
        built = error
    assert isinstance(built, Board) or "board" in str(built)


def test_the_text_of_a_run_tells_settings_apart(tmp_path: Path) -> None:
    """Equal settings give equal text; another value, or another file's content, another one."""
    path = tmp_path / "trace.csv"
    path.write_text("1", encoding="utf-8")
    settings = {"seed": 1, "workload": {"path": str(path)}}
    text = config_text(settings)
    assert text == config_text(settings)
    assert text != config_text({**settings, "seed": 2})
    path.write_text("2", encoding="utf-8")
    assert text != config_text(settings)


def test_experiments_composed_alike_are_equal() -> None:
    """Composing the same overrides twice gives equal specifications."""
    overrides = ["model=qwen3_32b", "pools.decode.layout.tp=2"]
    assert compose(overrides) == compose(overrides)
