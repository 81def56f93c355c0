"""Reading the CSV log, and the numbers behind the charts."""

from __future__ import annotations

from pathlib import Path

from neo_lightning.report.charts import Band, Line, line_chart, thin, ticks, unbroken
from neo_lightning.report.curves import read_curves


def test_later_files_win_and_gaps_stay_gaps(tmp_path: Path) -> None:
    for version, text in {
        2: "step,loss,lr\n10,1.5,0.1\n20,1.25,\n",
        10: "step,loss\n20,1.0\n30,nan\n,4\n",
    }.items():
        folder = tmp_path / f"version_{version}"
        folder.mkdir()
        (folder / "metrics.csv").write_text(text)
    curves = read_curves(tmp_path)
    assert curves.steps == (10, 20, 30)
    assert curves.columns == {"loss": (1.5, 1.0, None), "lr": (0.1, None, None)}
    assert curves.points("lr") == [(10, 0.1)]
    assert curves.points("unknown") == []


def test_no_log_is_no_curve(tmp_path: Path) -> None:
    assert read_curves(None).steps == read_curves(tmp_path).steps == ()


def test_reads_what_the_training_logger_writes(tmp_path: Path) -> None:
    from neo_lightning.training.loggers import RunCSVLogger

    logger = RunCSVLogger(str(tmp_path))
    logger.log_metrics({"loss/text": 2.0}, step=1)
    logger.log_metrics({"loss/text": 1.0, "loss/image": 3.0}, step=2)
    logger.save()
    assert read_curves(tmp_path).columns == {"loss/image": (None, 3.0), "loss/text": (2.0, 1.0)}


def test_thinning_averages_neighbours() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    few = thin(points, most=10)
    assert len(few) == 10
    assert few[0] == (49.5, 0.5)
    assert thin([(0.0, float("inf")), (1.0, 2.0)]) == [(1.0, 2.0)]


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == [0, 0.5, 1.0]
    for high in (0.0021, 0.9, 7, 43, 6200):
        marks = ticks(0, high)
        assert 2 <= len(marks) <= 6
        assert marks[0] == 0
        assert marks[-1] <= high * (1 + 1e-9)


def test_a_curve_is_cut_where_nothing_was_logged() -> None:
    points = [(float(x), 1.0) for x in (*range(0, 50, 10), *range(500, 530, 10), 900)]
    runs = unbroken(points)
    assert [len(run) for run in runs] == [5, 3, 2]
    assert runs[2] == [(900.0, 1.0)] * 2
    assert unbroken([]) == []


def test_chart_names_its_stages_and_lines() -> None:
    bands = [Band(label="a very long <name>", start=0, stop=2), Band(label="rest", start=2, stop=100)]
    lines = [Line(name="text", points=[(0, 2.0), (99, 1.0)], colour="red"), Line(name="none", points=[], colour="red")]
    chart = line_chart("Loss", lines, bands)
    assert ">2 rest<" in chart
    assert ">1<" in chart  # no room for the name: its number only
    assert 'class="boundary"' in chart
    assert ">text<" in chart
    assert "none" not in chart
    assert line_chart("Loss", lines[1:], bands) == ""
