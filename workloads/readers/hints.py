"""What a user says of a file that the file itself does not."""

from collections.abc import Mapping
from dataclasses import dataclass

from workloads import checks
from workloads.errors import TraceError
from workloads.readers.times import AUTO, UNITS

CONTEXTS = (AUTO, "full", "delta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """Settings of a trace that its format leaves open.

    ``time_unit`` is what numeric times count. ``block_size`` is the tokens of one block id.
    ``context`` tells whether a turn's input is the ``full`` prompt or the ``delta`` to the turn
    before. ``columns`` names a file's own column of each canonical one.
    """

    time_unit: str = AUTO
    block_size: int | None = None
    context: str = AUTO
    columns: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        checks.one_of("trace", "time_unit", self.time_unit, (AUTO, *UNITS))
        checks.one_of("trace", "context", self.context, CONTEXTS)
        if self.block_size is not None:
            checks.whole("trace", "block_size", self.block_size, 1)
        columns = self.columns
        if columns is not None and not (
            isinstance(columns, Mapping)
            and columns
            and all(isinstance(each, str) for pair in columns.items() for each in pair)
        ):
            raise TraceError(
                f"trace: columns must name the file's column of each field but got {columns!r}"
            )
