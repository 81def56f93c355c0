"""report.json's layout, and a page that needs nothing from outside and cannot be broken by what it shows."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from neo_lightning.evaluation import EvaluationContext
from neo_lightning.evaluation.metrics import EXACT_MATCH_LAYOUT
from neo_lightning.evaluation.words import count, duration, listing, percent
from neo_lightning.report import write_report

HOSTILE = '</p></td><script>alert("x")</script><img src=http://evil.example/x.png onerror=alert(1)>&amp; \u202e\'"'
VOID = {"meta", "img", "br", "link", "input", "hr"}
SHAPES = {"rect", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Checks that tags are balanced and that nothing is loaded or run."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.images = 0
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"event handler {name} in <{tag}>"
            assert name not in ("href", "srcset", "action", "xlink:href"), f"{name} in <{tag}>"
            if name == "src":
                assert tag == "img"
                assert (value or "").startswith("data:image/png;base64,iVBOR")
                self.images += 1
            if name == "style":
                assert "url(" not in (value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES, f"<{tag}/> does not close itself in HTML"

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def check_page(text: str) -> Page:
    """Parse a report and assert that it is balanced and self-contained."""
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert "Content-Security-Policy" in text
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    return page


def hostile_result(folder: Path) -> dict[str, Any]:
    """A scene evaluation's result in which every string is hostile."""
    entry = {
        "modality": "image",
        "correct": 1,
        "total": 4,
        "accuracy": 0.25,
        "interval": [0.05, 0.7],
        "chance": 0.25,
        "guess": 0.5,
        "blanked": {"correct": 4, "total": 4, "accuracy": 1.0, "interval": [0.5, 1.0]},
        "control_met": False,
        "goal": 0.9,
        "goal_met": False,
        "verdict": "not learned",
        "learned": False,
    }
    example = {
        "type": HOSTILE,
        "key": HOSTILE,
        "modality": "image",
        "question": HOSTILE,
        "answer": HOSTILE,
        "truth": HOSTILE,
        "correct": False,
        "blanked_answer": HOSTILE,
        "pictures": [],
    }
    return {
        "layout": EXACT_MATCH_LAYOUT,
        "rule": "the rule",
        "control_rule": "the control's rule",
        "examples_rule": "chosen so",
        "types": {HOSTILE: entry},
        "goals": [{"name": HOSTILE, "goal": ">= 90%", "value": 0.25, "met": False}],
        "export": {"checked": 4, "same": 3, "different": [{"key": HOSTILE, "before": HOSTILE, "after": ""}]},
        "examples": [example, {**example, "correct": True, "answer": ""}],
        "failures": [HOSTILE],
        "seconds": 1.5,
    }


def test_hostile_text_is_shown_and_not_obeyed(context: EvaluationContext) -> None:
    context = dataclasses.replace(
        context, title=HOSTILE, summary=HOSTILE, command=HOSTILE, skipped=[(HOSTILE, HOSTILE)], wall_seconds={"x": 1.0}
    )
    write_report(context, {HOSTILE: {"note": HOSTILE, "score": 0.5}, "scenes": hostile_result(context.run_dir)})
    page = check_page((context.run_dir / "report.html").read_text(encoding="utf-8"))
    assert page.images == 0
    shown = "".join(page.text)
    assert shown.count(HOSTILE) >= 12  # escaped, so that it reads as it was written
    assert "Not learned:" in shown
    assert "Control missed" in shown
    assert "give the answer away" in shown
    assert "3 of 4" in shown


def test_layout_of_the_json(context: EvaluationContext, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss/text,lr,tokens_per_s,pack_fill\n1,5,0.1,10,0.9\n2,4,0.2,30,nan\n")
    context = dataclasses.replace(
        context,
        log_dir=tmp_path,
        seed=7,
        command="lightning run tiny",
        wall_seconds={"training": 75.0},
        skipped=[("a/1", "broken"), ("a/2", "broken"), ("b/1", "too long")],
    )
    report = write_report(
        context, {"mine": {"score": float("nan"), "failures": ["no"], "folder": tmp_path, "types": 3}}
    )
    assert json.loads((context.run_dir / "report.json").read_text()) == report
    assert report["format"] == 1
    assert (report["title"], report["seed"], report["command"]) == ("tiny", 7, "lightning run tiny")
    assert report["model"]["parameters"] == sum(p.numel() for p in context.model.parameters())
    assert [(s["name"], s["first_step"], s["steps"]) for s in report["stages"]] == [("warm-up", 0, 10), ("all", 10, 20)]
    assert report["curves"]["steps"] == [1, 2]
    assert report["curves"]["columns"]["pack_fill"] == [0.9, None]
    assert report["throughput"] == 20
    assert [chart["title"] for chart in report["charts"]] == ["Loss", "Learning rate", "Throughput", "Pack fill"]
    assert report["skipped"]["by_reason"] == {"broken": 2, "too long": 1}
    assert report["evaluations"]["mine"]["score"] is None  # JSON knows no nan
    assert report["failures"] == ["mine: no"]
    assert {"python", "torch", "neo-lightning"} <= set(report["versions"])
    assert report["machine"]["cores"] >= 1
    page = check_page((context.run_dir / "report.html").read_text())
    shown = " ".join(page.text)
    for text in ("1 min 15 s", "2 × broken", "lightning run tiny", "warm-up", "tokens a second"):
        assert text in shown
    assert not list(context.run_dir.glob("*.partial"))


def test_report_without_logs_and_evaluations(context: EvaluationContext) -> None:
    report = write_report(context, {})
    assert report["charts"] == []
    assert report["throughput"] is None
    check_page((context.run_dir / "report.html").read_text())


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0%"), (1.0, "100%"), (0.998, "99.8%"), (0.9996, "100%"), (0.5, "50%"), (1 / 90, "1.1%"), (0.416, "42%")],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_words() -> None:
    numbers = {7: "7", 5371: "5,371", 54_321: "54.3 K", 1_534_000: "1.53 M", 10_247e6: "10.2 B"}
    assert {number: count(number) for number in numbers} == numbers
    assert [duration(s) for s in (1.25, 42.4, 734, 3600 * 3 + 300)] == ["1.2 s", "42 s", "12 min 14 s", "3 h 05 min"]
    assert [listing(w) for w in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
