"""Azure LLM inference traces of 2023 and later: CSV with a time and two token counts.

All years share the columns ``TIMESTAMP,ContextTokens,GeneratedTokens``; 2025 adds ``NumImages``.
2023 has naive times with 7 digits of a second (100 ns), 2024 has 6 digits and an offset from UTC;
the first data row tells which. Source: github.com/Azure/AzurePublicDataset. Anybody's file may have
this shape, so nothing is said of its licence.
"""

from pathlib import Path

from workloads.cleaning import Policy
from workloads.readers.hints import Hints
from workloads.readers.rows import Columns, has_columns, read_rows
from workloads.trace import Trace

COLUMNS = Columns(time="TIMESTAMP", input_tokens="ContextTokens", output_tokens="GeneratedTokens")


class Azure:
    """Reads every year."""

    name = "azure"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the first line is a header with the Azure columns."""
        return has_columns(head, COLUMNS)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        return read_rows(path, COLUMNS, policy, hints.time_unit, ("azure2023", "azure2024"))
