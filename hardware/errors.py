"""What goes wrong in a hardware specification."""


class SpecError(ValueError):
    """A GPU, link or fabric was described with a value that cannot be."""
