"""What goes wrong with an input."""


class RecordError(ValueError):
    """This record, or the input as a whole, cannot be imported; the message is the reason."""
