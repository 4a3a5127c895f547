"""The report of a run: plotly figures and plain words in one self-contained HTML page."""

from simulator.report.page import write_report

__all__ = ["write_report"]
