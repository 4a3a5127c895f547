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

    def __bool__(self) -> bool:
        return self._timeout > 0

    def holds(self, tokens: int) -> bool:
        """Tell whether a step of ``tokens``, decodes included, has its prompts wait once more."""
        if self._count < self._timeout and tokens < self.tokens:
            self._count += 1
            return True
        self._count = 0
        return False
