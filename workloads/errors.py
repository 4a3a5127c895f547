"""What goes wrong in a trace or a synthetic workload."""


class TraceError(ValueError):
    """A trace file or workload setting cannot be used; names the file, row, field and value."""
