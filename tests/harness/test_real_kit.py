"""VLMEvalKit itself, in an environment of its own, on held-out scenes: its answers and its scores are ours.

    git clone VLMEvalKit, and in it: python -m venv /tmp/kit && /tmp/kit/bin/pip install -e . rouge_score
    /tmp/kit/bin/pip install --no-deps .                                                 (this package)
    NEO_VLMEVALKIT=/tmp/kit/bin/python python -m pytest tests/harness/test_real_kit.py

It is not installed by the test: that takes gigabytes from a network. Seen with VLMEvalKit e8e78f05.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from neo_lightning.answering import Answering, write_folder
from neo_lightning.cli.main import main
from neo_lightning.data.index import ShardSource, iterate_samples
from neo_lightning.evaluation.benchmarks import Benchmark, Words
from neo_lightning.model.config import NeoConfig
from neo_lightning.types import Media
from tests.evaluation.conftest import CLIP, SMALL
from tests.evaluation.data import write_tsv
from tests.harness.trained import learn
from tests.tiny_models import random_model

PYTHON = os.environ.get("NEO_VLMEVALKIT", "")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
CHOICE = Benchmark(
    name="held-choice",
    metric="choice",
    words=Words(
        choice="Question: {question}\nOptions:{options}\nPlease select the correct answer from the options above. \n",
        one="{image}",
    ),
)
"""In the kit's own words for tables with options that it does not know."""
YES_NO = Benchmark(name="held-yes-no", metric="yes_no", words=Words(one="{image}"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="NEO_VLMEVALKIT names no Python with VLMEvalKit"),
]


def scenes(shards: Path) -> Iterator[tuple[bytes, str]]:
    """Drawn pictures of one shape, each with its colour."""
    for sample in iterate_samples(ShardSource("x", "image", (str(shards / "colour-000000.tar"),))):
        picture = next(part.data for part in sample.messages[0].parts if isinstance(part, Media))
        yield picture, str(sample.messages[-1].parts[0])


def choices(shards: Path) -> list[dict[str, Any]]:
    rows = []
    for number, (picture, colour) in enumerate(scenes(shards)):
        others = [other for other in COLOURS if other != colour][: 3 - number % 2]
        options = [*others[:number], colour, *others[number:]]
        row = {"index": number, "question": "What colour is it?", "answer": "ABCD"[options.index(colour)]}
        lettered = dict(zip("ABCD", [*options, ""], strict=False))
        rows.append({**row, **lettered, "image": base64.b64encode(picture).decode()})
    return rows


def yes_no(shards: Path) -> list[dict[str, Any]]:
    return [
        {
            "index": 2 * number + right,
            "question": f"Is it {colour if right else 'not ' + colour}?",
            "answer": "Yes" if right else "No",
            "category": "drawn",
            "image": base64.b64encode(picture).decode(),
        }
        for number, (picture, colour) in enumerate(scenes(shards))
        for right in (0, 1)
    ]


@pytest.fixture(scope="module")
def data(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as VLMEvalKit has them."""
    out = tmp_path_factory.mktemp("LMUData")
    write_tsv(out / "HeldChoice.tsv", choices(shards))
    write_tsv(out / "HeldYesNo.tsv", yes_no(shards))
    return out


@pytest.fixture(scope="module")
def trained(config: NeoConfig, tokenizer_folder: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that answers some of the questions rightly, some wrongly, and one with words that are no answer."""
    out = tmp_path_factory.mktemp("trained")
    write_folder(random_model(config, 0), out, tokenizer_folder, Answering(image=SMALL, video=CLIP, max_new_tokens=8))
    taught = []
    for number, row in enumerate(choices(shards)):
        options = "".join(f"\n{letter}. {row[letter]}" for letter in "ABCD" if row[letter])
        asked = CHOICE.words.choice.replace("{question}", row["question"]).replace("{options}", options)
        said = ("The best answer is A.", f"{row['answer']}. {row[row['answer']]}", row[row["answer"]])[number]
        taught.append((shown(row, asked), said))
    for number, row in enumerate(yes_no(shards)):
        taught.append(
            (shown(row, row["question"]), ("Yes, it is.", "yes", "no", "Perhaps", "No.", "Yes and no.")[number])
        )
    learn(out, taught)
    return out


def shown(row: Mapping[str, Any], words: str) -> list[dict[str, Any]]:
    url = f"data:image/png;base64,{row['image']}"
    return [{"type": "image", "url": url}, {"type": "text", "text": words}]


def test_the_kit_answers_and_scores_as_we_do(trained: Path, data: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    for benchmark, name in (("CHOICE", "HeldChoice"), ("YES_NO", "HeldYesNo")):
        line = ["eval", "--model", str(trained), "--benchmark", f"{__name__}.{benchmark}", "--preset", "greedy"]
        line += ["--data", str(data / f"{name}.tsv"), "--out", str(ours), "--max-new-tokens", "8", "--device", "cpu"]
        assert main(line) == 0
    scores = json.loads((ours / "scores.json").read_text())["benchmarks"]

    known = json.dumps({"HeldYesNo": {"class": "ImageYORNDataset", "dataset": "HeldYesNo"}})
    sets = {"HeldChoice": "neo_HeldChoice_acc.csv", "HeldYesNo": "neo_HeldYesNo_score.csv"}
    kit = started(trained, data, tmp_path / "kit", *sets, further=("--data-config", known))
    for benchmark, (name, score_file) in zip(("held-choice", "held-yes-no"), sets.items(), strict=True):
        theirs = predictions(kit, name)
        graded = [json.loads(line) for line in (ours / benchmark / "graded.jsonl").read_text().splitlines()]
        assert {line["key"]: line["answer"].strip() for line in graded} == theirs
        assert len(set(theirs.values())) > 1, "a model that says one thing proves nothing"
        with (kit / score_file).open(newline="") as file:
            found = next(csv.DictReader(file))
        share = float(found["Overall"]) / (100 if benchmark == "held-yes-no" else 1)
        assert share == pytest.approx(scores[benchmark]["scores"]["accuracy"])
        assert 0 < share < 1


def test_the_authors_preset_goes_through_the_kit(trained: Path, data: Path, tmp_path: Path) -> None:
    budget = ("--preset", "authors", "--min-pixels", "4096", "--max-pixels", "9216")
    kit = started(trained, data, tmp_path / "kit", "HeldChoice", options=budget)
    assert sorted(predictions(kit, "HeldChoice")) == ["0", "1", "2"]


def started(
    model: Path, data: Path, out: Path, *sets: str, options: Sequence[str] = (), further: Sequence[str] = ()
) -> Path:
    """The folder with what the kit has written."""
    line = [PYTHON, "-m", "neo_lightning", "eval", "--harness", "vlmevalkit", "--model", str(model), *options]
    line += ["--benchmark", ",".join(sets), "--data", str(data), "--out", str(out), "--max-new-tokens", "8"]
    line += ["--device", "cpu", "--", "--judge", "exact_matching", *further]
    run = subprocess.run(
        line, cwd=out.parent, env=os.environ | {"PRED_FORMAT": "tsv"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return out / "neo"


def predictions(kit: Path, name: str) -> dict[str, str]:
    with (kit / f"neo_{name}.tsv").open(newline="") as file:
        return {row["index"]: row["prediction"] for row in csv.DictReader(file, delimiter="\t")}
