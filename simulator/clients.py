"""How long clients wait for their answers, and how often they no longer want one."""

import math
from dataclasses import dataclass

from simulator.errors import ConfigError

MOST_RESENDS = 60
"""Beyond so many times the next would come after more years than there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """When a client leaves although its answer is not complete; seconds count from its arrival.

    It gives up after ``first_token_timeout_s`` without a first token, and after ``timeout_s``
    without the last one (``None``: never). With ``cancel_probability`` it takes its request back
    after a time of its own, exponential of mean ``cancel_mean_s``; each request has its own draw,
    the same under whatever deployment and policy serves it. A request that admission turns away is
    sent again up to ``resends`` times, ``resend_after_s`` later and twice as long each time.

    Raises:
        ConfigError: a time that is not above 0 s, a probability outside [0, 1], or fewer resends
            than none.
    """

    first_token_timeout_s: float | None = None
    timeout_s: float | None = None
    cancel_probability: float = 0.0
    cancel_mean_s: float = 10.0
    resends: int = 0
    resend_after_s: float = 1.0

    def __post_init__(self) -> None:
        for name in ("first_token_timeout_s", "timeout_s", "cancel_mean_s", "resend_after_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"clients: {name} must be above 0 s but got {value!r}")
        if not 0 <= self.resends <= MOST_RESENDS:
            raise ConfigError(
                f"clients: resends must lie in [0, {MOST_RESENDS}] but got {self.resends!r}"
            )
        if not 0 <= self.cancel_probability <= 1:
            raise ConfigError(
                "clients: cancel_probability must lie in [0, 1] but got "
                f"{self.cancel_probability!r}"
            )

    @property
    def stay(self) -> bool:
        """Whether every client waits for its answer, however long that takes."""
        limits = self.first_token_timeout_s, self.timeout_s
        return limits == (None, None) and not self.cancel_probability
