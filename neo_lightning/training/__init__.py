"""Training: stages, the module, the strategy and the callbacks. In come packed rows, out go checkpoints and logs.

Imported lazily where it can be: this pulls in Lightning.
"""
