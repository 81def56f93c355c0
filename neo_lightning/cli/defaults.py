"""What every run shares, so that no recipe repeats it: the trainer's settings, callbacks and loggers.

A recipe's `trainer.callbacks` are added to the default ones; one of the same class takes the default's place. Its
`trainer.logger` is added to the TensorBoard and CSV logs in the run's folder; `false` turns all logging off.
"""
