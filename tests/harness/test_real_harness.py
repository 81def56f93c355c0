"""lmms-eval itself, in an environment of its own, on held-out scenes: its score is ours.

    python -m venv /tmp/lmms && /tmp/lmms/bin/pip install lmms-eval "filelock<3.20"
    /tmp/lmms/bin/pip install --no-deps .
    NEO_LMMS_EVAL=/tmp/lmms/bin/python python -m pytest tests/harness/test_real_harness.py

It is not installed by the test: that takes gigabytes from a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from neo_lightning.answering import Engine

BUILT_IN = """
import json, sys
from types import SimpleNamespace
from lmms_eval.models.chat.neo_ov import NeoOV

folder, *images = sys.argv[1:]
budget = {"min_pixels": 4096, "max_pixels": 9216}
model = NeoOV(folder, device="cpu", device_map="cpu", torch_dtype="float32", system_prompt="", **budget)
parts = [[{"type": "image", "url": image}, {"type": "text", "text": "Which colour?"}] for image in images]
model.task_dict = {"t": {"test": [[{"role": "user", "content": content}] for content in parts]}}
settings = {"max_new_tokens": 5, "do_sample": False}
asked = [SimpleNamespace(args=("", lambda document: document, settings, n, "t", "test")) for n in range(len(images))]
print("ANSWERS" + json.dumps([result.text for result in model.generate_until(asked)]))
"""
"""lmms-eval's own model, as it comes: the authors' `.chat()` on whatever `AutoModel` loads."""

TASK = Path(__file__).parent / "task"
PYTHON = os.environ.get("NEO_LMMS_EVAL", "")


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="NEO_LMMS_EVAL names no Python with lmms-eval")
def test_lmms_eval_scores_what_we_score(
    folder: Path, engine: Engine, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    task = tmp_path / "task"
    shutil.copytree(TASK, task)
    asked = [("Which colour?", [path], []) for path in media["image"]]
    asked += [("Where does it go?", [], [path]) for path in media["video"]]
    said = [
        engine.answer(question, images=images, videos=videos, max_new_tokens=5).strip()
        for question, images, videos in asked
    ]
    documents = [
        {
            "question": question,
            "answer": answer if number % 2 else "something else",
            "images": list(map(str, images)),
            "videos": list(map(str, videos)),
        }
        for number, ((question, images, videos), answer) in enumerate(zip(asked, said, strict=True))
    ]
    (task / "questions.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    yaml = task / "held_out.yaml"
    yaml.write_text(yaml.read_text().replace("questions.jsonl", str(task / "questions.jsonl")))
    arguments = f"pretrained={folder},system_prompt=,device=cpu"
    line = [PYTHON, "-m", "lmms_eval", "--model", "neo_ov", "--model_args", arguments, "--tasks", "held_out_scenes"]
    line += ["--include_path", str(task), "--batch_size", "2", "--log_samples", "--output_path", str(tmp_path / "out")]
    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    run = subprocess.run(line, cwd=tmp_path, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    results = next(iter((tmp_path / "out").rglob("*results.json")), None)
    assert results, run.stdout[-2000:] + run.stderr[-6000:]
    score = json.loads(results.read_text())["results"]["held_out_scenes"]["exact_match,none"]
    assert score == (len(asked) // 2) / len(asked)
    (samples,) = (tmp_path / "out").rglob("*samples*.jsonl")
    records = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda r: r["doc_id"])
    assert [record["filtered_resps"] for record in records] == said


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="NEO_LMMS_EVAL names no Python with lmms-eval")
def test_the_model_that_lmms_eval_brings_runs_on_an_export(
    folder: Path, engine: Engine, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    line = [PYTHON, "-c", BUILT_IN, str(folder), *map(str, media["image"])]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    said = json.loads(run.stdout.rpartition("ANSWERS")[2])
    asked = "<image>\nWhich colour?"  # it writes a line feed behind an image
    assert said == [engine.answer(asked, images=[path], max_new_tokens=5).strip() for path in media["image"]]
