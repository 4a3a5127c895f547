"""What a worker would take for some work alone: the estimates that policies are shown."""

from simulator.cluster.workers.timing import DecodeTimes
from simulator.deployment import Batching
from simulator.latency.base import Busiest, StepModel


class Pace:
    """Seconds of a pool's workers, from the step model that the pool runs on."""

    __slots__ = ("_block_size", "_budget", "_chunked", "_full_s", "_stages", "_steps", "_times")

    def __init__(
        self, batching: Batching, ranks: int, steps: StepModel, times: DecodeTimes
    ) -> None:
        self._budget = batching.rank_tokens(ranks)
        self._chunked = batching.chunked_prefill
        self._block_size = batching.block_size
        self._steps = steps
        self._times = times
        self._stages = steps.stages
        self._full_s: float | None = None  # a whole budget's, once somebody asks

    def _chunk_s(self, tokens: int, done: int) -> float:
        """Return the seconds of one prompt's chunk alone, after ``done`` of its tokens."""
        pairs = tokens * done + tokens * (tokens + 1) // 2
        return self._steps.step_seconds(tokens, pairs, done, 1, 0, 0, Busiest(tokens, 1))

    def prompt_s(self, tokens: int) -> float:
        """Return the seconds of a prompt alone, chunk by chunk."""
        if not self._chunked:
            return self._chunk_s(tokens, 0)
        seconds, done = 0.0, 0
        while done < tokens:
            chunk = min(self._budget, tokens - done)
            seconds += self._chunk_s(chunk, done)
            done += chunk
        return seconds

    def backlog_s(self, tokens: int) -> float:
        """Return when the next prompt may begin behind so many tokens, in full steps and a rest."""
        full, rest = divmod(tokens, self._budget)
        seconds = 0.0
        if full:
            if self._full_s is None:
                self._full_s = self._chunk_s(self._budget, 0)
            seconds = full * self._full_s
        if rest:
            seconds += self._chunk_s(rest, 0)
        return seconds / self._stages

    def decode_s(self, batch: int, context: float) -> float:
        """Return a step's seconds of ``batch`` sequences over ``context`` KV tokens."""
        _, c0, c1, c2 = self._times.piece(batch, int(context))
        return c0 + context * (c1 + context * c2)

    def tokens(self, blocks: int) -> int:
        """Return the tokens that so many KV blocks hold."""
        return blocks * self._block_size
