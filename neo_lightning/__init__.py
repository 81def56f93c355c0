"""neo_lightning: train NEO-ov, a native (encoder-free) vision-language model, with Lightning."""

__version__ = "0.1.0"
