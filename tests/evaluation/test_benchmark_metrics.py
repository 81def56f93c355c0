"""Metrics of benchmarks against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from neo_lightning.evaluation.item import Item
from neo_lightning.evaluation.metrics import METRICS, GradeMetric, paired_difference
from neo_lightning.evaluation.metrics.judged import grade_of
from neo_lightning.evaluation.metrics.number import mean_relative_accuracy
from neo_lightning.evaluation.metrics.reading import number_of, option_of, yes_or_no
from neo_lightning.evaluation.metrics.text import levenshtein
from neo_lightning.evaluation.metrics.vqa import vqa_normal

COLOURS = {"A": "red", "B": "dark blue", "C": "blue", "D": "none of them"}


def item(*answers: str, **more: Any) -> Item:
    return Item(key=more.pop("key", "0"), answers=answers, **more)


def scores(metric: GradeMetric) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in metric.compute().items()}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(C)", "C"),
        ("**D**", "D"),
        ("A. red", "A"),
        ("B) dark blue, since the sky is", "B"),
        ("Answer: C", "C"),
        ("The correct answer is (B).", "B"),
        ("The answer is A because A man stands there", "A"),
        ("A is wrong. B is wrong. So the answer is C", "C"),
        ("The answer is A. No, that is wrong: the answer is B, since it is dark", "B"),
        ("Answer: \\boxed D", "D"),
        ("Answer: \\boxed{\\text{B}}", "B"),
        ("I think \\boxed{A}, no, \\boxed{C}", "C"),
        ("<answer>A</answer>", "A"),
        ("``B``", "B"),
        ("<think>A or B? The answer is A.</think>C", "C"),
        ("First look at A and B.\nThen\nC", "C"),
        ("dark blue", "B"),
        ("It is dark blue.", "B"),
        ("it looks red", "A"),
        ("A man in a car", None),
        ("I'd say it is red or blue", None),
        ("E", None),
        ("", None),
        ("A, B", None),
        ("the answer is b", "B"),
        ("The answer is a man", None),
        ("A is right", "A"),
        ("Both A and C are possible", None),
        ("A: no. B: no. C: yes.", None),
        ("A. red\nB. dark blue", None),
        ("A. red is out.\nB. dark blue fits.\nSo B", "B"),
        ("C. blue\n\nThe sky is not red.", "C"),
        ("bored", None),
    ],
)
def test_the_option_that_is_meant(answer: str, letter: str | None) -> None:
    assert option_of(answer, COLOURS) == letter


def test_an_option_without_known_options_is_any_letter() -> None:
    assert option_of("The answer is E.", {}) == "E"
    assert option_of("G", {}) == "G"


def test_choice() -> None:
    metric = METRICS["choice"]()
    asked = [item("A", options=COLOURS), item("B", options=COLOURS), item("C"), item("12 cm", "12 centimetres")]
    metric.update(["A", "C", "C.", "Thinking. ANSWER: 12  CM."], asked)
    assert metric.grades[0].tolist() == [1, 0, 1, 1]
    assert scores(metric) == {"accuracy": 0.75}
    assert metric.interval() == pytest.approx((0.300642, 0.954413), abs=1e-6), "Wilson of 3 in 4"
    assert not METRICS["choice"]().grade("112 cm", item("12 cm")), "words are not parts of words"


def test_circular_evaluation_wants_every_rotation() -> None:
    metric = METRICS["circular"]()
    rows = [("7", "A", "A"), ("1000007", "B", "B"), ("8", "A", "A"), ("1000008", "B", "A"), ("9", "C", "C")]
    for key, truth, said in rows:
        metric.update([said], [item(truth, key=key, options=COLOURS, fields={"index": key})])
    assert scores(metric) == {"circular accuracy": pytest.approx(2 / 3, abs=1e-6), "accuracy of rows": 0.8}
    assert metric.interval() == pytest.approx((0.207660, 0.938508), abs=1e-6), "Wilson of 2 in 3 groups"


def test_flips_and_rotations_of_a_question_count_together() -> None:
    metric = METRICS["flip_circular"]()
    options = {"A": "x", "B": "y"}
    said = {
        "aaaaaaaa": "A", "aaaaaaaa-1": "A", "aaaaaaaa-flip": "A", "aaaaaaaa-flip-1": "A",
        "bbbbbbbb": "A", "bbbbbbbb-1": "A", "bbbbbbbb-flip": "B", "bbbbbbbb-flip-1": "A",
        "cccccccc": "A", "cccccccc-1": "B",
    }  # fmt: skip
    items = [item("A", key=qid, options=options, fields={"qid": qid}) for qid in said]
    metric.update(list(said.values()), items)
    assert scores(metric) == {
        "flip and circular accuracy": pytest.approx(1 / 3, abs=1e-6),
        "circular accuracy": 0.4,  # of two pictures twice and of one: a, a mirrored, b
        "flip accuracy": pytest.approx(4 / 6, abs=1e-6),  # of six rotations: both of a, the second of b, the first of c
        "accuracy of rows": 0.8,
    } | {"circular accuracy": pytest.approx(3 / 5)}
    low, high = metric.interval()
    assert 0 < low < 1 / 3 < high < 1


def test_chance_is_taken_off() -> None:
    metric = METRICS["chance_adjusted"]()
    two, four = {"A": "x", "B": "y"}, COLOURS
    metric.update(["A", "B", "A"], [item("A", options=two), item("A", options=two), item("A", options=four)])
    assert scores(metric)["chance-adjusted accuracy"] == pytest.approx((2 - 1.25) / (3 - 1.25), abs=1e-6)
    low, high = metric.interval()
    assert low < (2 - 1.25) / (3 - 1.25) < high


def test_yes_and_no() -> None:
    said = [yes_or_no(a) for a in ("Yes.", "no, there is none", "yes and no", "nothing", "<think>no</think>YES", "Not")]
    assert said == ["yes", "no", None, None, "yes", None]


def test_f1_of_yes_counts_a_question_once_for_each_category() -> None:
    metric = METRICS["yes_no"]()
    asked = [item("yes", categories=("random", "popular")), item("no"), item("yes"), item("no")]
    metric.update(["Yes", "Yes", "No", "what?"], asked)
    # yes said: 2 + 1 of which right 2; yes meant: 2 + 1; right altogether: 2 of 5
    found = scores(metric)
    assert found == {
        "F1": pytest.approx(2 / 3, abs=1e-6),
        "accuracy": 0.4,
        "precision": pytest.approx(2 / 3, abs=1e-6),
        "recall": pytest.approx(2 / 3, abs=1e-6),
        "yes": 0.6,
    }
    none = METRICS["yes_no"]()
    none.update(["No"], [item("no")])
    assert scores(none)["F1"] == 0.0


def test_a_truth_that_is_neither_yes_nor_no_names_its_row() -> None:
    with pytest.raises(ValueError, match=r"pope\.tsv, row 3: the right answer must be yes or no, found 'maybe'"):
        METRICS["yes_no"]().update(["yes"], [item("maybe", where="pope.tsv, row 3")])


def test_hallusionbench() -> None:
    metric = METRICS["hallusion"]()
    # set 0: figures 0 and 1, questions 0 and 1; set 1: one figure with one question
    rows = {"0_0_0": 1, "0_0_1": 1, "0_1_0": 1, "0_1_1": 0, "1_0_0": 0}
    for key, right in rows.items():
        metric.update(
            ["yes" if right else "no"], [item("1", fields={"index": f"VD_map_x_{key}", "l2-category": "map"})]
        )
    found = scores(metric)
    assert found["aAcc"] == 0.6
    assert found["fAcc"] == pytest.approx(1 / 3, abs=1e-6), "figure 0_0 alone is all right"
    assert found["qAcc"] == pytest.approx(1 / 3, abs=1e-6), "question 0_0 alone is right for both figures"
    assert found["mean of aAcc, fAcc, qAcc"] == pytest.approx((0.6 + 1 / 3 + 1 / 3) / 3, abs=1e-6)
    low, high = metric.interval()
    assert 0 <= low <= found["mean of aAcc, fAcc, qAcc"] <= high <= 1
    assert low < high
    with pytest.raises(ValueError, match="set_id, figure_id, question_id"):
        metric.update(["yes"], [item("1", key="nameless")])


def test_what_is_drawn_twice_counts_twice() -> None:
    metric = METRICS["hallusion"]()
    for number in range(10):
        metric.update(["yes" if number else "no"], [item("0", fields={"index": f"VD_map_0_{number}_0_0"})])
    # ten sets of one question, one of them right, so all three accuracies are k/10 with k of Binomial(10, 0.1)
    assert metric.interval() == pytest.approx((0.0, 0.3))


def test_exact_match_of_any_right_answer() -> None:
    metric = METRICS["exact"]()
    metric.update(
        ["top  left\n", "Red", "\\boxed{42}", "2"], [item("top left"), item("red"), item("42"), item("two", "2")]
    )
    assert metric.grades[0].tolist() == [1, 0, 1, 1]


def test_ocrbench_contains() -> None:
    metric = METRICS["contains"]()
    formula = ("Handwritten Mathematical Expression Recognition",)
    asked = [item("STOP"), item("go", "slow\ndown"), item("x ^ 2", categories=formula), item("X^2", categories=formula)]
    metric.update(["The sign says stop.", "Slow down!", "it is x^2", "x^2"], asked)
    assert metric.grades[0].tolist() == [1, 1, 1, 0]


def test_anls() -> None:
    assert [levenshtein(*pair) for pair in (("kitten", "sitting"), ("", "ab"), ("same", "same"))] == [3, 2, 0]
    metric = METRICS["anls"]()
    metric.update(["Kitten", "abcd", "abcd", "ab"], [item("sitting"), item("abxy"), item("wxyz", "abcd"), item("axyz")])
    # 1 - 3/7; 1 - 2/4 is at the threshold; the best of two; 1 - 3/4 lies below it
    assert metric.grades[0].tolist() == pytest.approx([4 / 7, 0.5, 1, 0])


def test_relaxed_accuracy() -> None:
    metric = METRICS["relaxed"]()
    cases = [("104.9", "100", 1), ("105.1", "100", 0), ("-95", "-100", 1), ("12%", "0.12", 1), ("2019", "2018.0", 1)]
    cases += [("red", "Red", 1), ("reddish", "red", 0), ("0", "0", 1), ("0.01", "0", 0), ("100 cm", "100", 0)]
    metric.update([said for said, _, _ in cases], [item(truth) for _, truth, _ in cases])
    assert metric.grades[0].tolist() == [right for _, _, right in cases]


def test_vqa_accuracy() -> None:
    assert vqa_normal("The  two dogs, don't!") == "2 dogs don't"
    assert vqa_normal("dont run") == "don't run"
    assert vqa_normal("1,000.5 a.m.") == "1000.5 am"
    assert vqa_normal("red/blue") == "red blue"
    metric = METRICS["vqa"]()
    people = ("stop",) * 2 + ("halt",) * 8
    metric.update(["Stop.", "halt", "go", "the stop"], [item(*people), item(*people), item(*people), item("stop")])
    # of "stop": left out one of the two, 1/3 (twice); one of the eight, 2/3
    assert metric.grades[0].tolist() == pytest.approx([(2 * 1 / 3 + 8 * 2 / 3) / 10, 1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("number", "truth", "expected"),
    [(10, 10, 1.0), (9.5, 10, 1.0), (9.0, 10, 0.9), (5.0, 10, 0.1), (4.9, 10, 0.0), (15, 10, 0.1), (0.4, 0, 0.3)],
)
def test_mean_relative_accuracy(number: float, truth: float, expected: float) -> None:
    # an error of e passes the thresholds t <= 1 - e of 0.50, 0.55, ..., 0.95
    assert mean_relative_accuracy(number, truth) == pytest.approx(expected)


def test_numbers_in_answers() -> None:
    said = ["about 3.5 metres", "There are two chairs", "<think>7</think> 1,250", "\\boxed{-2e1}", "none", "<answer>4"]
    assert [number_of(answer) for answer in said] == [3.5, 2, 1250, -20, None, 4]
    said = ["3 by 4, so 12 m^2", "from two to 3.5", "<answer>5</answer> (not 6)", "Twenty.", "room 7b"]
    assert [number_of(answer) for answer in said] == [12, 3.5, 5, 20, 7]
    metric = METRICS["mra"]()
    metric.update(["9 m", "no idea"], [item("10"), item("10")])
    assert scores(metric) == {"mean relative accuracy": 0.45}
    with pytest.raises(ValueError, match="row 1: the right answer must be a number"):
        metric.update(["1"], [item("many", where="row 1")])


def test_vsi_bench_is_a_mean_over_types() -> None:
    metric = METRICS["vsi"]()
    rows = [("object_counting", "10", "9"), ("object_counting", "10", "10")]
    rows += [
        ("object_rel_direction_easy", "A", "A"),
        ("object_rel_direction_hard", "A", "B"),
        ("route_planning", "B", "B"),
    ]
    for kind, truth, said in rows:
        options = COLOURS if truth.isalpha() else {}
        metric.update([said], [item(truth, categories=(kind,), options=options)])
    # counting (0.9 + 1) / 2; direction is the mean of easy 1 and hard 0; route 1
    assert scores(metric) == {
        "mean over types": pytest.approx((0.95 + 0.5 + 1) / 3, abs=1e-6),
        "mean over questions": pytest.approx((0.9 + 1 + 1 + 0 + 1) / 5, abs=1e-6),
    }


def test_spar_grades_a_change_of_view_by_its_movements() -> None:
    metric = METRICS["spar"]()
    view = item("move_right:1,rotate_left:20", categories=("view_change_infer",))
    metric.update(["move_left:-1, rotate_left:10"], [view])
    # right 1 of 1: 1; up, forward, rotate up 0 of 0: 1 each; left 10 of 20: an error of 0.5 passes one threshold of ten
    assert float(metric.grades[0]) == pytest.approx((1 + 1 + 1 + 0.1 + 1) / 5)


def test_a_judge_s_grades() -> None:
    assert [grade_of(reply) for reply in ("0.7", "Grade: 1.0", "0", "1.5", "good", "")] == [
        0.7,
        1.0,
        0.0,
        None,
        None,
        None,
    ]
    metric = METRICS["judged"]()
    metric.update(["x"], [item("y", fields={"grade": "0.3"})])
    assert scores(metric) == {"judged score": 0.3}
    with pytest.raises(ValueError, match="no judge"):
        metric.update(["x"], [item("y")])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("name", METRICS)
def test_states_of_processes_add_up_and_nothing_asked_is_no_number(name: str) -> None:
    fields = {"index": "VD_map_0_0_0_0", "grade": "1"}
    asked = [item("yes" if name in ("yes_no", "hallusion") else "1", fields=fields) for _ in range(3)]
    said = ["yes", "1", "2"]
    one, first, second = METRICS[name](), METRICS[name](), METRICS[name]()
    assert math.isnan(next(iter(scores(one).values())))
    assert one.interval() == (0.0, 1.0)
    one.update(said, asked)
    first.update(said[:1], asked[:1])
    second.update(said[1:], asked[1:])
    first.grades, first.marked = (
        [torch.cat([*first.grades, *second.grades])],
        [torch.cat([*first.marked, *second.marked])],
    )
    assert scores(first) == scores(one)
    assert next(iter(scores(one))) == METRICS[name].headline
    with pytest.raises(ValueError, match="zip"):
        one.update(["x"], [])


def test_paired_difference() -> None:
    mean, low, high = paired_difference([0, 0, 1, 1] * 50, [1, 0, 1, 1] * 50)
    assert mean == 0.25
    assert 0.18 < low < 0.25 < high < 0.32, "0.25 +- 1.96 sqrt(0.25 * 0.75 / 200) = 0.06"
    assert paired_difference([1, 0], [1, 0]) == (0, 0, 0)
    with pytest.raises(ValueError, match="as many grades"):
        paired_difference([1], [])
