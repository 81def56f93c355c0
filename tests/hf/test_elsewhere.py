"""An export in an environment that has never heard of this package: `tests/elsewhere.py` makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neo_lightning.answering import load
from tests import elsewhere
from tests.hf.processing_support import tokenizer
from tests.hf.test_processing_export import folder, talks

__all__ = ["folder", "talks", "tokenizer"]

PROGRAM = """
import importlib.util, json, sys
from transformers import pipeline

absent = [name for name in ("neo_lightning", "lightning", "pytest") if importlib.util.find_spec(name) is None]
ask = pipeline("image-text-to-text", model=sys.argv[1], trust_remote_code=True)
talks = json.loads(open(sys.argv[2]).read())
said = [ask(text=talk, return_full_text=False, max_new_tokens=8)[0]["generated_text"] for talk in talks]
print("TOLD" + json.dumps([absent, said]))
"""


@pytest.mark.slow
def test_the_pipeline_of_another_environment_answers_as_the_engine(folder: Path, talks: Any, tmp_path: Path) -> None:
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    home = elsewhere.make(tmp_path)
    output = elsewhere.run(home, PROGRAM, str(folder), str(tmp_path / "talks.json"), cwd=tmp_path)
    absent, said = json.loads(output.rpartition("TOLD")[2])
    assert absent == ["neo_lightning", "lightning", "pytest"]
    assert said == load(folder, device="cpu").answer(talks)
    assert len(set(said)) > 1
