"""Planned packs -> packed rows in the training process: datasets, worker processes, shared memory."""
