"""What a worker would take for some work alone: the estimates that policies are shown."""

from simulator.cluster.workers.timing import DecodeTimes, PromptTimes
from simulator.deployment import Batching


class Pace:
    """Seconds of a pool's workers, from the step model that the pool runs on."""

    __slots__ = ("_block_size", "_budget", "_chunk_s", "_chunked", "_stages", "_times")

    def __init__(
        self,
        batching: Batching,
        ranks: int,
        stages: int,
        times: DecodeTimes,
        prompt_times: PromptTimes,
    ) -> None:
        self._budget = batching.rank_tokens(ranks)
        self._chunked = batching.chunked_prefill
        self._block_size = batching.block_size
        self._times = times
        self._stages = stages
        self._chunk_s = prompt_times.alone

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
        seconds = full * self._chunk_s(self._budget, 0) if full else 0.0
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
