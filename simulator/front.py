"""What ``--help`` and ``--version`` say: answered without importing what a run needs."""

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

WIDTH = 100


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
    conf = files("conf")
    shown = conf.joinpath("hydra", "help", "disaggsim.yaml").read_text(encoding="utf-8")
    text = yaml.safe_load(shown)
    choices = dict(groups(conf))
    if own is not None and own.is_dir():
        for group, names in groups(own):
            choices[group] = sorted({*choices.get(group, []), *names})
    lines = [_wrapped(group, names) for group, names in sorted(choices.items())]
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


def _wrapped(group: str, names: Sequence[str]) -> str:
    text = f"{group}: {', '.join(names)}"
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
