"""Print KV capacity beside engines' logs; with --write-docs, renew its part of the report.

scripts/kv_capacity [--write-docs]
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from simulator.validation import capacity
from simulator.validation.names import Catalogue

REPORT = Path(__file__).resolve().parent.parent.parent / "docs" / "validation.md"


def main(arguments: Sequence[str] | None = None, report: Path = REPORT) -> int:
    """Do what the command line asks and return the exit code."""
    head, _, _ = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="scripts/kv_capacity", description=head)
    parser.add_argument("--write-docs", action="store_true", help="renew docs/validation.md's part")
    options = parser.parse_args(arguments)
    catalogue = Catalogue.shipped()
    sys.stdout.write(capacity.table(capacity.compared(catalogue)) + "\n")
    if options.write_docs:
        text = report.read_text(encoding="utf-8")
        report.write_text(renewed(text, capacity.section(catalogue)), encoding="utf-8")
    return 0


def renewed(text: str, section: str) -> str:
    """Return the report with ``section`` in place of the one of its title, or before the last."""
    part = re.compile(re.escape(capacity.TITLE) + r"\n.*?(?=\n## |\Z)", re.DOTALL)
    if part.search(text):
        return part.sub(lambda _: f"{section}\n", text)
    head, mark, tail = text.rpartition("\n## ")
    return f"{head}\n{section}\n{mark}{tail}"


if __name__ == "__main__":
    sys.exit(main())
