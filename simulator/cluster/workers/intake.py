"""When a worker takes up prompts that came while it decodes: engines may look seldom, or wait."""

from simulator.deployment import Batching


class Polls:
    """The steps before which a worker that decodes looks for new requests.

    It looks when it has computed prompts, and then before every ``every``-th step of decodes alone,
    as SGLang's scheduler counts (``SchedulerRecvSkipper``: a decode weighs 1, any other step a
    thousand). Steps are numbered through. With ``lag`` 1 the scheduler forms each step when the one
    before begins (overlap scheduling): a look does not find who came during that.
    """

    __slots__ = ("_since", "at_once", "every", "lag")

    def __init__(self, batching: Batching) -> None:
        self.every = batching.scheduler_recv_interval
        self.lag = int(batching.schedules_ahead)
        self.at_once = self.every == 1 and not self.lag
        self._since = 0

    def restart(self, step: int) -> None:
        """Look before ``step``, and count from there."""
        self._since = step

    def due(self, step: int) -> bool:
        """Tell whether it looks before ``step``."""
        return (step - self._since) % self.every == 0

    def next(self, step: int) -> int:
        """Return the first step at or after ``step`` before which it looks."""
        return step + (self._since - step) % self.every


class BatchWait:
    """Iterations for which a worker lets prompts wait for more of them to share a step.

    As TensorRT-LLM's ``batch_wait_timeout_iters`` and ``batch_wait_max_tokens_ratio`` (1.1 and
    later, ``_waiting_requests`` of py_executor.py).
    """

    __slots__ = ("_count", "_timeout", "tokens")

    def __init__(self, batching: Batching) -> None:
        self._timeout = batching.batch_wait_timeout_iters
        self.tokens = batching.batch_wait_max_tokens_ratio * batching.max_num_batched_tokens
        self._count = 0

    def holds(self, tokens: int) -> bool:
        """Tell whether a step of ``tokens``, decodes included, has its prompts wait once more."""
        if self._count < self._timeout and tokens < self.tokens:
            self._count += 1
            return True
        self._count = 0
        return False


class RankBalance:
    """Steps for which prompts wait until there is one for every attention-DP rank.

    As TensorRT-LLM's ``attention_dp_config`` with ``enable_balance`` and ``timeout_iters``
    (``_balance_adp_requests`` of py_executor.py): steps are counted from the last that had a prompt
    for each rank, or fewer decodes than ranks, whether or not anybody waits, and every so many-th
    takes whoever is there.
    """

    __slots__ = ("_few", "_since", "_timeout", "ranks")

    def __init__(self, batching: Batching, ranks: int) -> None:
        self._timeout = batching.attention_dp_timeout_iters
        self.ranks = ranks
        self._since, self._few = 0, True

    def begins(self, step: int, decoding: int) -> None:
        """Hear that ``step`` begins with so many decodes, as all since the last heard of."""
        if self._few:
            self._since = step - 1
        self._few = decoding < self.ranks

    def holds(self, step: int, prompts: int) -> bool:
        """Tell whether ``step`` has its prompts, so many, wait once more."""
        if self._few:
            return False
        if prompts >= self.ranks:
            self._since = step
            return False
        return (step - self._since) % self._timeout != 0
