"""Every request's columns while the simulation runs: flat arrays indexed by request id."""

from array import array
from math import isnan

import numpy as np
from numpy.typing import NDArray

from simulator.record import COUNTS, STATUSES, TIMES

NAN = float("nan")
OF_AN_ATTEMPT = tuple(
    name.removesuffix("_s")
    for name in TIMES
    if name not in ("arrival_s", "first_token_s", "second_token_s", "finish_s")
)
"""Moments that a request which begins anew passes again."""
INCOMPLETE, COMPLETED, REJECTED, FAILED = range(len(STATUSES))


class Ledger:
    """One entry per request and column; typed arrays, since they are read and written one by one.

    ``generated`` counts the output tokens a request has produced whenever it is not in a batch;
    ``prompt_tokens`` are those that its prefill computes: its input and, where it begins anew, what
    it had generated. ``lost_at`` says when a lost request had its last token, ``moved_at`` when one
    had it whose KV is on its way from one decode worker to another, ``shown_at`` when a client saw
    the token of a prompt that was held back after its end; ``resumed`` are the gaps (seconds)
    before those with which lost requests went on, and ``settled`` the requests whose gap
    between first and second token is among them or in a worker's log; ``unseen_tokens`` counts
    those that were generated and lost before anybody saw them, ``wasted_tokens`` those of prompts
    whose client left before they were computed.
    """

    __slots__ = (
        *(name.removesuffix("_s") for name in TIMES),
        *COUNTS,
        "generated",
        "lost_at",
        "moved_at",
        "prompt_tokens",
        "resumed",
        "settled",
        "size",
        "shown_at",
        "unseen_tokens",
        "wasted_tokens",
    )

    arrival: "array[float]"
    admitted: "array[float]"
    prefill_queue_enter: "array[float]"
    prefill_start: "array[float]"
    prefill_end: "array[float]"
    first_token: "array[float]"
    transfer_queue_enter: "array[float]"
    transfer_start: "array[float]"
    transfer_end: "array[float]"
    decode_queue_enter: "array[float]"
    decode_join: "array[float]"
    second_token: "array[float]"
    finish: "array[float]"
    input_tokens: "array[int]"
    output_tokens: "array[int]"
    cached_tokens: "array[int]"
    preemptions: "array[int]"
    recomputed_tokens: "array[int]"
    retries: "array[int]"
    prefill_worker: "array[int]"
    decode_worker: "array[int]"
    status: "array[int]"
    reason: "array[int]"

    def __init__(
        self,
        arrival_s: NDArray[np.float64],
        input_tokens: NDArray[np.int32],
        output_tokens: NDArray[np.int32],
    ) -> None:
        self.size = size = len(arrival_s)
        for name in TIMES:
            setattr(self, name.removesuffix("_s"), array("d", [NAN]) * size)
        for name in COUNTS:
            setattr(self, name, array("i", [-1 if name.endswith("_worker") else 0]) * size)
        self.generated = array("i", [0]) * size
        self.prompt_tokens = array("i", [0]) * size
        self.lost_at: dict[int, float] = {}
        self.moved_at: dict[int, float] = {}
        self.shown_at: dict[int, float] = {}
        self.resumed: list[float] = []
        self.settled: set[int] = set()
        self.unseen_tokens = self.wasted_tokens = 0
        np.frombuffer(self.arrival)[:] = arrival_s
        np.frombuffer(self.input_tokens, dtype=np.int32)[:] = input_tokens
        np.frombuffer(self.output_tokens, dtype=np.int32)[:] = output_tokens
        np.frombuffer(self.prompt_tokens, dtype=np.int32)[:] = input_tokens

    def shown(self, request: int, now: float) -> None:
        """Let the client see what a handed-over prefill generated: the first token, or the next."""
        if isnan(self.first_token[request]):
            self.first_token[request] = now
        if self.generated[request] == 1:
            return
        since = self.lost_at.pop(request)
        if isnan(self.second_token[request]):
            self.second_token[request] = now
            since = self.first_token[request]
            self.settled.add(request)  # its KV may never be handed over, or not again
        self.resumed.append(now - since)

    def last_shown(self, request: int) -> float:
        """Return when a client saw the token that its prefill worker generated, where it did."""
        return self.shown_at.get(request, self.prefill_end[request])

    def begin_anew(self, request: int) -> None:
        """Forget how far a lost request came; what its client has seen, and its tokens, remain."""
        if not isnan(self.second_token[request]):
            if not isnan(self.transfer_end[request]) and request not in self.settled:
                self.resumed.append(self.second_token[request] - self.first_token[request])
            self.settled.add(request)
        self.shown_at.pop(request, None)
        for name in OF_AN_ATTEMPT:
            getattr(self, name)[request] = NAN
        self.prefill_worker[request] = self.decode_worker[request] = -1
        self.prompt_tokens[request] = self.input_tokens[request] + self.generated[request]
        self.retries[request] += 1

    def give_up(self, request: int) -> None:
        """Hear that a prompt that was to be computed will not be.

        Where that would have been once more, its tokens were counted as recomputed in advance.
        """
        if self.generated[request]:
            known = self.input_tokens[request] + self.generated[request]
            self.recomputed_tokens[request] -= known - 1

    def columns(self) -> dict[str, NDArray[np.float64] | NDArray[np.int32]]:
        """Return every column as a numpy view, named as in :mod:`simulator.record`."""
        views: dict[str, NDArray[np.float64] | NDArray[np.int32]] = {
            name: np.frombuffer(getattr(self, name.removesuffix("_s"))) for name in TIMES
        }
        for name in COUNTS:
            views[name] = np.frombuffer(getattr(self, name), dtype=np.int32)
        return views
