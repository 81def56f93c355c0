"""Shards -> packed batches. No model here, and no Lightning except in `datamodule`."""
