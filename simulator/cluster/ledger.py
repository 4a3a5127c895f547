"""Every request's columns while the simulation runs: flat arrays indexed by request id."""

from array import array

import numpy as np
from numpy.typing import NDArray

from simulator.record import COUNTS, STATUSES, TIMES

NAN = float("nan")
INCOMPLETE, COMPLETED, REJECTED, FAILED = range(len(STATUSES))


class Ledger:
    """One entry per request and column; typed arrays, since they are read and written one by one.

    ``generated`` counts the output tokens a request has produced whenever it is not in a batch.
    """

    __slots__ = tuple(name.removesuffix("_s") for name in TIMES) + COUNTS + ("generated", "size")

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
        np.frombuffer(self.arrival)[:] = arrival_s
        np.frombuffer(self.input_tokens, dtype=np.int32)[:] = input_tokens
        np.frombuffer(self.output_tokens, dtype=np.int32)[:] = output_tokens

    def columns(self) -> dict[str, NDArray[np.float64] | NDArray[np.int32]]:
        """Return every column as a numpy view, named as in :mod:`simulator.record`."""
        views: dict[str, NDArray[np.float64] | NDArray[np.int32]] = {
            name: np.frombuffer(getattr(self, name.removesuffix("_s"))) for name in TIMES
        }
        for name in COUNTS:
            views[name] = np.frombuffer(getattr(self, name), dtype=np.int32)
        return views
