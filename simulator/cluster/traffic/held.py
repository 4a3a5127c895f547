"""One queue before all workers: who waits there while its gate is closed."""

from collections import deque
from collections.abc import Iterator
from math import inf

from simulator.cluster.clock import ADMISSION, HELD, Alarm, Clock
from simulator.cluster.traffic.gates import Gate
from simulator.cluster.workers.lines import KeyOf, Line, OrderedLine


class Held:
    """Prompts that wait at the router, first come first or by key.

    It is looked whether the gate is open after all else that happens at an instant, the workers'
    starts included.
    """

    def __init__(self, clock: Clock, gate: Gate, key_of: KeyOf | None) -> None:
        self._clock = clock
        self._gate = gate
        self._line: Line = deque() if key_of is None else OrderedLine(key_of)
        self._here: dict[int, tuple[int, bool]] = {}  # each one's tokens, and whether it is new
        self._next_s = 0.0  # when the next may leave
        self.tokens = 0  # of all prompts that wait here
        self.alarm = Alarm(clock, HELD)

    def __iter__(self) -> Iterator[int]:
        """Yield who waits, the first first."""
        return iter(self._line)

    def __contains__(self, request: int) -> bool:
        """Tell whether a prompt waits here."""
        return request in self._here

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._here)

    @property
    def holds(self) -> bool:
        """Whether a prompt that comes now has to wait."""
        return bool(self._here) or not self._gate.open

    @property
    def can_go(self) -> bool:
        """Whether somebody waits and need not."""
        return bool(self._here) and self._clock.now >= self._next_s and self._gate.open

    def hold(self, request: int, tokens: int, *, new: bool) -> None:
        """Let a prompt of so many tokens wait; ``new``: it was in no queue before."""
        self._here[request] = tokens, new
        self.tokens += tokens
        self._line.append(request)
        if len(self._here) == 1:
            self.rest()

    def take(self) -> tuple[int, bool]:
        """Take the first out, and tell whether it is new."""
        request = self._line.popleft()
        tokens, new = self._here.pop(request)
        self.tokens -= tokens
        self._next_s = self._clock.now + self._gate.apart_s
        return request, new

    def forget(self, request: int) -> bool:
        """Let a prompt go whose client has gone; tell whether it was here."""
        if request not in self._here:
            return False
        self._line.remove(request)
        self.tokens -= self._here.pop(request)[0]
        return True

    def look(self) -> None:
        """See, after all else of this instant, whether somebody may go."""
        if self._here:
            self.alarm.set(max(self._clock.now, self._next_s), ADMISSION)

    def rest(self) -> None:
        """Sleep until the gate opens by itself, where that is known."""
        opens = self._gate.opens_s if self._here else inf
        if opens < inf:
            self.alarm.set(max(opens, self._next_s), ADMISSION)
