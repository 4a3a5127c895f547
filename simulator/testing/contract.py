"""What the checks of all kinds of policy share: the error, and what it is to be the same."""

import copy
import math
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeVar

import numpy as np

from simulator.plugins import words

Answer = TypeVar("Answer")


class ContractError(AssertionError):
    """A policy broke its contract; the text is one sentence that names it and what it broke."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The policy under test: its ``kind`` (router, autoscaler) and itself."""

    kind: str
    policy: Any

    def broke(self, what: str) -> ContractError:
        """Return the error that says ``what`` it did."""
        return ContractError(f"{self.kind} {type(self.policy).__qualname__}: {what}")

    def asked(self, situation: str, ask: Callable[[], Answer]) -> Answer:
        """Return an answer of the policy, having seen to it that asking left it as it was.

        Raises:
            ContractError: it raised anything, or changed an attribute of its own.
        """
        before = {name: _copied(value) for name, value in attributes(self.policy).items()}
        try:
            answer = ask()
        except ContractError as error:
            raise self.broke(str(error)) from error
        except Exception as error:
            raise self.broke(f"raised {words(error)} {situation}") from error
        after = attributes(self.policy)
        changed = sorted(name for name in {*before, *after} if not _alike(name, before, after))
        if changed:
            raise self.broke(
                f"changed its own {', '.join(changed)} when asked; what it remembers must be "
                "state that it returns, or two runs with one policy meet"
            )
        return answer

    def quickest(self, situation: str, ask: Callable[[], float], enough_s: float) -> float:
        """Return the least seconds of up to three tries; one within ``enough_s`` is the last.

        A shared machine's hiccup is not the policy's.

        Raises:
            ContractError: as :meth:`asked`.
        """
        each = math.inf
        for _ in range(3):
            if each > enough_s:
                each = min(each, self.asked(situation, ask))
        return each


def asked_twice(subject: Subject, situation: str, ask: Callable[[], Answer]) -> Answer:
    """Return an answer that is the same when asked twice, and with other random streams.

    Raises:
        ContractError: it is not; or as :meth:`Subject.asked`.
    """
    answers = []
    for seed in (1, 2):
        with streams_at(seed):
            answers.append(subject.asked(situation, ask))
    if not same(*answers):
        raise subject.broke(
            f"answered {answers[0]!r} and then {answers[1]!r} to one and the same question "
            f"{situation}"
        )
    return answers[0]


def attributes(thing: object) -> dict[str, Any]:
    """Return an object's attributes by name, those in slots too."""
    slots = [
        name
        for kind in type(thing).__mro__
        for name in _names(getattr(kind, "__slots__", ()))
        if hasattr(thing, name)
    ]
    return {**getattr(thing, "__dict__", {}), **{name: getattr(thing, name) for name in slots}}


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are alike to the last bit; a NaN is alike to a NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and _same_rows(one.tolist(), other.tolist())
    if isinstance(one, np.random.Generator):
        return same(one.bit_generator.state, other.bit_generator.state)
    if isinstance(one, random.Random):
        return bool(one.getstate() == other.getstate())
    if isinstance(one, Mapping):
        return _same_mappings(one, other)
    if isinstance(one, Sequence | deque) and not isinstance(one, str | bytes):
        return _same_rows(one, other)
    if is_dataclass(one) or type(one).__eq__ is object.__eq__:  # type: ignore[comparison-overlap]
        return _same_mappings(attributes(one), attributes(other))
    return bool(one == other or (one != one and other != other))


@contextmanager
def streams_at(seed: int) -> Iterator[None]:
    """Let the process's own random streams begin elsewhere, and give them back as they were."""
    ours, numpys = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)


def _copied(value: Any) -> Any:
    """Return a copy, or the thing itself where it cannot be copied (a lock, a module)."""
    try:
        return copy.deepcopy(value)
    except Exception:  # whatever a stranger's class raises when copied
        return value


def _names(slots: str | Iterable[str]) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _alike(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return name in before and name in after and same(before[name], after[name])


def _same_mappings(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    return list(one) == list(other) and all(same(one[key], other[key]) for key in one)


def _same_rows(one: Collection[object], other: Collection[object]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))
