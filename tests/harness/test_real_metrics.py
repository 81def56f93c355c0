"""Our metrics against lmms-eval's own functions, on answers at random; see test_real_harness.py for the environment."""

from __future__ import annotations

import json
import random
import subprocess

import pytest

from neo_lightning.evaluation.item import Item
from neo_lightning.evaluation.metrics import METRICS
from neo_lightning.evaluation.metrics.number import mean_relative_accuracy
from tests.harness.test_real_harness import PYTHON

THEIRS = """
import json, sys
from lmms_eval.api.metrics import anls
from lmms_eval.tasks.chartqa.utils import relaxed_correctness
from lmms_eval.tasks.vsibench.utils import mean_relative_accuracy

cases = json.load(sys.stdin)
found = {
    "anls": [float(anls(truths, [said])["anls"]) for said, truths in cases["words"]],
    "relaxed": [float(relaxed_correctness(said, truth)) for said, truth in cases["figures"]],
    "mra": [float(mean_relative_accuracy(said, truth, 0.5, 0.95, 0.05)) for said, truth in cases["numbers"]],
}
print("GRADES" + json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="NEO_LMMS_EVAL names no Python with lmms-eval")
def test_grades_are_those_of_lmms_eval() -> None:
    draw = random.Random(0)
    words = ["red", "a red car", "Red car", "blue", "42", "the 42nd", "  cafe ", "north-west", "northwest"]
    figures = ["12", "12.5", "12%", "0.12", "13", "-3", "0", "yes", "Yes", "12.6", "11.4", "1e2", "100"]
    cases = {
        "words": [(draw.choice(words), draw.sample(words, draw.randint(1, 3))) for _ in range(300)],
        "figures": [(draw.choice(figures), draw.choice(figures)) for _ in range(300)],
        "numbers": [(round(draw.uniform(0, 12), 1), round(draw.uniform(0.1, 12), 1)) for _ in range(300)],
    }
    run = subprocess.run([PYTHON, "-c", THEIRS], input=json.dumps(cases), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    theirs = json.loads(run.stdout.rpartition("GRADES")[2])

    def ours(metric: str, said: str, truths: list[str]) -> float:
        return METRICS[metric]().grade(said, Item(key="x", answers=tuple(truths)))

    # theirs divides by lengths with white space, ours without (as the challenge's own code does)
    clean = [
        n
        for n, (said, truths) in enumerate(cases["words"])
        if said == said.strip() and truths == [t.strip() for t in truths]
    ]
    assert len(clean) > 100
    assert [ours("anls", *cases["words"][n]) for n in clean] == pytest.approx([theirs["anls"][n] for n in clean])
    assert [ours("relaxed", said, [truth]) for said, truth in cases["figures"]] == theirs["relaxed"]
    # at a bound itself (an error of 35%) it is theirs that loses the last bit
    apart = [
        n for n, (said, truth) in enumerate(cases["numbers"]) if 1e-9 < (20 * abs(said - truth) / truth) % 1 < 1 - 1e-9
    ]
    assert len(apart) > 200
    grades = [mean_relative_accuracy(*cases["numbers"][n]) for n in apart]
    assert grades == pytest.approx([theirs["mra"][n] for n in apart])
    assert all(0 < sum(grades) < len(grades) for grades in theirs.values())
