"""Request traces: real, read from files, and synthetic."""
