"""How the command speaks and listens: its words, ``--help`` and ``--version``, and Ctrl-C.

Nothing here needs what a run needs, so that it is there at once.
"""

import argparse
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

WIDTH = 100
WAKE, STOP = signal.SIGUSR1, signal.SIGUSR2
"""Signals between this process's own threads."""


class UnheardError(OSError):
    """The result could not be written to stdout."""


def say(text: str) -> None:
    """Print the command's result.

    Raises:
        UnheardError: stdout cannot be written, as on a full disk.
        BrokenPipeError: whoever read it has seen enough.
    """
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnheardError(error.errno, error.strerror, "stdout") from error


def tell(text: str) -> None:
    """Write a line of talk to stderr; where that cannot be written the exit code must do."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def complain(text: str) -> None:
    """Tell what is wrong, under the command's name."""
    tell(f"disaggsim: {text}")


def hush() -> None:
    """Send what is left of stdout nowhere, so that the interpreter does not try once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Interrupts:
    """Ctrl-C, remembered: a library may swallow the exception or turn it into another one."""

    def __init__(self) -> None:
        self.seen = False
        self.told = sys.unraisablehook

    def listen(self) -> None:
        """Take SIGINT from here on."""
        sys.unraisablehook = self._swallowed
        signal.signal(signal.SIGINT, self)

    def __call__(self, _: int, frame: FrameType | None) -> None:
        """Raise what Ctrl-C raises, a moment later where it would be swallowed once more."""
        self.seen = True
        while frame is not None:
            if frame.f_code is Interrupts._swallowed.__code__:
                _interrupt_later()
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    def _swallowed(self, unraisable: Any) -> None:
        """Send an interrupt again that met a place where none can be raised."""
        if unraisable.exc_type is KeyboardInterrupt:
            _interrupt_later()
        else:
            self.told(unraisable)


def _interrupt_later() -> None:
    """Send Ctrl-C to this process in a moment."""
    threading.Timer(0.001, os.kill, (os.getpid(), signal.SIGINT)).start()


def refuse_if_interrupted(error: BaseException | None = None) -> None:
    """Raise ``KeyboardInterrupt`` if Ctrl-C was pressed: ``error`` then only follows from it."""
    if getattr(signal.getsignal(signal.SIGINT), "seen", False):
        raise KeyboardInterrupt from error


@contextmanager
def interrupts_kept_here() -> Iterator[None]:
    """Let SIGINT reach this process alone, for as long as it starts workers.

    A terminal sends it to all of them, and each would answer with a traceback from wherever it is;
    they inherit it blocked instead, and end when this process ends them. Here a thread waits for
    it and wakes the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(WAKE, signal.getsignal(signal.SIGINT))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    waiting = threading.Thread(target=_forward, args=(threading.get_ident(),), daemon=True)
    waiting.start()
    try:
        yield
    finally:
        signal.pthread_kill(waiting.ident or 0, STOP)
        waiting.join()
        signal.signal(WAKE, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def start_tracker() -> None:
    """Start Python's tracker of shared resources, which comes before any worker process.

    It leaves SIGINT unblocked in the thread that starts it, for all workers to come.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _forward(main: int) -> None:
    """Wake the thread ``main`` for each SIGINT, until told to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {STOP})
    while signal.sigwait({signal.SIGINT, STOP}) == signal.SIGINT:
        signal.pthread_kill(main, WAKE)


def answer(arguments: Sequence[str]) -> str | None:
    """Return what ``arguments`` ask to be told, ``None`` where they ask for something to be done.

    Hydra's own flags of these names would tell of Hydra, and take as long as composing a run.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=Path)
    try:
        known, _ = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError:  # a flag without its value, which Hydra's parser tells of
        return None
    if known.version:
        return f"disaggsim {version('disaggsim')}"
    return help_text(known.config_dir) if known.help else None


def help_text(own: Path | None = None) -> str:
    """Return how to call the command: every group's choices, those in the folder ``own`` too."""
    import yaml  # here: Ctrl-C must be answered before anything is slow to import

    conf = files("conf")
    shown = conf.joinpath("hydra", "help", "disaggsim.yaml").read_text(encoding="utf-8")
    text = yaml.safe_load(shown)
    choices = dict(groups(conf))
    if own is not None and own.is_dir():
        for group, names in groups(own):
            choices[group] = sorted({*choices.get(group, []), *names})
    lines = [_wrapped(kin, names) for kin, names in _kin(choices)]
    listed = "\n".join(["Choices (group=choice)", "", *lines])
    return "\n".join([text["header"], listed, "", text["footer"].rstrip()])


def groups(folder: Path | Traversable, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the groups below ``folder`` with the names of their choices."""
    for each in folder.iterdir():
        if each.is_dir() and each.name[0] not in "._" and each.name != "hydra":
            group = f"{prefix}{each.name}"
            inside = (inner.name for inner in each.iterdir() if inner.name.endswith(".yaml"))
            names = sorted(name.removesuffix(".yaml") for name in inside)
            if names:
                yield group, names
            yield from groups(each, f"{group}/")


def _kin(choices: Mapping[str, list[str]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the groups by name with their choices, those of one parent and the same ones as one."""
    kin = groupby(sorted(choices.items()), lambda it: (it[0].rpartition("/")[0] or it[0], it[1]))
    for (_, names), alike in kin:
        yield ", ".join(group for group, _ in alike), names


def _wrapped(group: str, names: Sequence[str]) -> str:
    text = f"{group}: {', '.join(names)}"
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
