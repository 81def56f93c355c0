"""The held-out shards and the tiny random model of the evaluation's tests."""

from tests.evaluation.conftest import config, context, shards, tokenizer, tokenizer_folder

__all__ = ["config", "context", "shards", "tokenizer", "tokenizer_folder"]
