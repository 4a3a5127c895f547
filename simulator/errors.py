"""Everything that can go wrong, in one tree.

::

    ValueError
    ├── hardware.errors.SpecError     a GPU, link or fabric that cannot be
    ├── workloads.errors.TraceError   a trace or workload that cannot be used
    └── ConfigError                   an experiment that cannot run
        ├── LayoutError               a layout that does not divide the model or the GPUs
        └── CapacityError             a model that does not fit the memory of its GPUs
    RuntimeError
    └── InvariantError                a conservation law broke: a bug of ours, never the user's

The command line prints the first family as one sentence and exits with 2.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from hardware.errors import SpecError
from workloads.errors import TraceError

BAD_INPUT, BUG, INTERRUPTED = 2, 1, 130
"""Exit codes of the command line, the last as shells have it after Ctrl-C."""


class ConfigError(ValueError):
    """An experiment asks for something that cannot run."""


class LayoutError(ConfigError):
    """A parallel layout does not divide the model or the GPUs."""


class CapacityError(ConfigError):
    """A model does not fit into the memory of the GPUs it was given."""


class InvariantError(RuntimeError):
    """A conservation law broke during a simulation."""


USER_ERRORS: tuple[type[ValueError], ...] = (SpecError, TraceError, ConfigError)


@contextmanager
def settings_of(service: str) -> Iterator[None]:
    """Put what cannot run down to the settings of a service, or to nobody's where it has no name.

    Raises:
        ConfigError: one that was raised meanwhile, its text beginning with the service's key.
    """
    try:
        yield
    except ConfigError as error:
        if not service:
            raise
        raise type(error)(f"services.{service}: {error}") from error
