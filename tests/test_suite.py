"""The suite itself: what a test says does not depend on how busy the machine is."""

import re
from pathlib import Path

from hypothesis import settings


def test_no_example_has_a_deadline() -> None:
    """An example may take as long as it takes, and no file brings a deadline back."""
    assert settings().deadline is None
    for path in Path(__file__).parent.rglob("test_*.py"):
        if path != Path(__file__):
            assert not re.search(r"deadline\s*=", path.read_text(encoding="utf-8")), path
