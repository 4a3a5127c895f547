"""A comparison in a few lines, for a terminal."""

from collections.abc import Sequence

from simulator.compare import prose
from simulator.compare.comparison import Comparison
from simulator.compare.reading import Found
from simulator.runs import runs_table

MOST_ROWS = 40


def told(comparison: Comparison) -> str:
    """Return the answer, how sure it is, and the main numbers of every configuration."""
    shown = comparison.points[:MOST_ROWS]
    runs = [comparison.runs[point.base] for point in shown]
    rows = [
        (point.name, run.summary, str(run.folder)) for point, run in zip(shown, runs, strict=True)
    ]
    left = len(comparison.points) - len(shown)
    more = [f"… and {left:,} more"] if left else []
    said = [prose.answer(comparison), prose.certainty(comparison)]
    return "\n".join([runs_table(rows), *more, "", *filter(None, said)])


def unfinished(found: Found) -> Sequence[str]:
    """Return what was not finished and hence left out, as a sentence, if anything."""
    folders = found.incomplete
    if not folders:
        return []
    others = f" and {len(folders) - 1:,} more" if len(folders) > 1 else ""
    return [f"Not finished and left out: {folders[0]}{others}."]
