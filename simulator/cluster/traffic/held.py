"""One queue before all workers: who waits there while none of them is for more prompts."""

from collections import deque
from collections.abc import Iterator

from simulator.cluster.clock import ADMISSION, HELD, Alarm, Clock
from simulator.cluster.pools.router import Router
from simulator.cluster.workers.lines import KeyOf, Line, OrderedLine


class Held:
    """Prompts that wait at the router, first come first or by key.

    A worker is for more as long as no more prompt tokens wait there than ``threshold`` of its steps
    hold. The router's choice is overruled where it is not for more: then who has the fewest prompt
    tokens, of those alike the fewest requests, gets the prompt. It is looked for such a worker
    after all else that happens at an instant, the workers' starts included.
    """

    def __init__(
        self, clock: Clock, router: Router, threshold: float, key_of: KeyOf | None
    ) -> None:
        self._clock = clock
        self._router = router
        self._threshold = threshold
        self._line: Line = deque() if key_of is None else OrderedLine(key_of)
        self._here: dict[int, tuple[int, bool]] = {}  # each one's tokens, and whether it is new
        self.tokens = 0  # of all prompts that wait here
        self.alarm = Alarm(clock, HELD)
        router.has_room = self._has_room

    def _has_room(self, index: int) -> bool:
        """Tell whether a worker is for more."""
        worker = self._router.team.workers[index]
        most = self._threshold * worker.settings.batching.max_num_batched_tokens
        return bool(self._router.team.load.tokens[index] <= most)

    def __iter__(self) -> Iterator[int]:
        """Yield who waits, the first first."""
        return iter(self._line)

    @property
    def holds(self) -> bool:
        """Whether a prompt that comes now has to wait."""
        return bool(self._here) or not self._somebody

    @property
    def can_go(self) -> bool:
        """Whether somebody waits and need not."""
        return bool(self._here) and self._somebody

    @property
    def _somebody(self) -> bool:
        """Whether a worker is for more."""
        team = self._router.team
        if not team.workers:
            return False
        least = self._router.live.least("tokens", draw=0.0)
        return self._has_room(least) or (
            len({worker.role for worker in team.workers}) > 1
            and any(map(self._has_room, range(len(team.workers))))
        )

    def hold(self, request: int, tokens: int, *, new: bool) -> None:
        """Let a prompt of so many tokens wait; ``new``: it was in no queue before."""
        self._here[request] = tokens, new
        self.tokens += tokens
        self._line.append(request)

    def take(self) -> tuple[int, bool]:
        """Take the first out, and tell whether it is new."""
        request = self._line.popleft()
        tokens, new = self._here.pop(request)
        self.tokens -= tokens
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
            self.alarm.set(self._clock.now, ADMISSION)
