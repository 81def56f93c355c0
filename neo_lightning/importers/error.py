"""What goes wrong with an input."""

from neo_lightning.data.facts import SampleError


class RecordError(SampleError):
    """This record, or the input as a whole, cannot be imported; the message is the reason."""
