"""A small model folder, what our engine answers, and the harnesses' interfaces as stand-ins."""

from __future__ import annotations

from pathlib import Path

from tests.answering.conftest import config, engine, folder, media, shards, tokenizer, tokenizer_folder

STAND_INS = Path(__file__).parent / "stand_ins"

__all__ = ["STAND_INS", "config", "engine", "folder", "media", "shards", "tokenizer", "tokenizer_folder"]
