"""Formats that are a CSV table with names of their own: BurstGPT, Vidur, splitwise-sim and BLIS.

BurstGPT: ``Timestamp,[Session ID,Elapsed time,]Model,Request tokens,Response tokens,…,Log Type``,
seconds from a local midnight; an answer of 0 tokens is a failure (github.com/HPMLL/BurstGPT).
Vidur: ``arrived_at,num_prefill_tokens,num_decode_tokens``, seconds, or lengths alone
(github.com/microsoft/vidur). splitwise-sim: ``arrival_timestamp,prompt_size,token_size``, seconds
(github.com/Mutinifni/splitwise-sim). BLIS: ``arrival_time_us,input_tokens,output_tokens,status``,
microseconds, with a header file of YAML beside it that is not needed
(github.com/inference-sim/inference-sim).
"""

from dataclasses import dataclass, replace
from pathlib import Path

from workloads.cleaning import Policy
from workloads.readers.hints import Hints
from workloads.readers.rows import Columns, has_names, read_rows
from workloads.readers.source import read_head
from workloads.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One such format; ``sure`` are further names its header has.

    Where ``untimed``, a header without the time is that of lengths alone.
    """

    name: str
    columns: Columns
    sure: tuple[str, ...] = ()
    untimed: bool = False

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the first line is a header with the format's columns."""
        timed = has_names(head, (*self.columns.needed, *self.sure))
        return timed or (self.untimed and has_names(head, self.columns.needed[1:]))

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        columns, names = self.columns, (self.name, self.name)
        if self.untimed and not has_names(read_head(path), columns.needed):
            columns = replace(columns, time=None)
        return read_rows(path, columns, policy, hints.time_unit, names)


TABLES = (
    Table(
        name="burstgpt",
        columns=Columns(
            time="Timestamp",
            input_tokens="Request tokens",
            output_tokens="Response tokens",
            unit="s",
            also={
                "Model": "model",
                "Log Type": "tenant",
                "Session ID": "session_id",
                "Elapsed time": "src_e2e_s",
            },
            chained=True,
        ),
    ),
    Table(
        name="vidur",
        columns=Columns(
            time="arrived_at",
            input_tokens="num_prefill_tokens",
            output_tokens="num_decode_tokens",
            unit="s",
            chained=True,
        ),
        untimed=True,
    ),
    Table(
        name="splitwise",
        columns=Columns(
            time="arrival_timestamp",
            input_tokens="prompt_size",
            output_tokens="token_size",
            unit="s",
            also={"application_id": "tenant"},
        ),
    ),
    Table(
        name="blis",
        columns=Columns(
            time="arrival_time_us",
            input_tokens="input_tokens",
            output_tokens="output_tokens",
            unit="us",
            also={"tenant_id": "tenant", "round_index": "turn"},
            chained=True,
        ),
        sure=("client_id", "status"),
    ),
)
"""Every one of them."""
