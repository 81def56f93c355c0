"""The command as a process: what it prints, how it ends, and that our own evaluation scores against it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from neo_lightning import exits
from neo_lightning.answering import load
from neo_lightning.cli.main import main
from neo_lightning.cli.serve import model_name
from neo_lightning.serving.run import listen
from tests.forks import Run, Server
from tests.serving.conftest import picture, shown


@pytest.fixture(scope="module")
def processes() -> Iterator[Server]:
    server = Server(
        "neo_lightning.cli.serve", "neo_lightning.serving.app", "neo_lightning.serving.run", "tests.serving.test_serve"
    )
    yield server
    server.close()


def serve(*arguments: str) -> int:
    """What the process runs."""
    return main(["serve", "--port", "0", *arguments])


def address(run: Run) -> str:
    """Of the server, once it serves."""
    for line in run.stdout:
        if found := re.search(r"clients: (http\S+)\)", line):
            return found[1]
    raise AssertionError("it ended")


@pytest.mark.slow
def test_it_serves_and_ends_when_asked(processes: Server, folder: Path, root: Path) -> None:
    call = "tests.serving.test_serve:serve"
    line = ["--model", str(folder), "--media-root", str(root), "--name", "mine"]
    with processes.start(call, *line, environment={"NEO_LIGHTNING_API_KEY": "secret"}) as run:
        url = address(run)
        client = openai.OpenAI(base_url=url, api_key="secret", max_retries=0)
        asked = shown(f"file://{root}/red.png")
        found = client.chat.completions.create(model="mine", messages=asked, max_tokens=5)  # type: ignore[arg-type]
        wanted = load(folder).answer("What is this?", images=[picture()], max_new_tokens=5)
        assert found.choices[0].message.content == wanted
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="x", max_retries=0).models.list()
        os.killpg(run.group, signal.SIGTERM)
        assert run.wait() == exits.DONE
    with processes.start(call, "--model", str(folder)) as run:
        address(run)
        os.killpg(run.group, signal.SIGINT)
        assert "interrupted" in run.stdout.read()
        assert run.wait() == exits.DONE


@pytest.mark.slow
def test_our_evaluation_scores_against_it(processes: Server, folder: Path, shards: Path, tmp_path: Path) -> None:
    """Pictures and clips, with the same answers and scores as the folder itself."""
    with processes.start("tests.serving.test_serve:serve", "--model", str(folder), "--name", "mine") as run:
        url = address(run)
        for task in ("colour", "motion"):
            data = ["eval", "--data", str(shards / f"{task}-000000.tar"), "--max-new-tokens", "5"]
            scores = []
            for name, line in (("here", ["--model", str(folder)]), ("there", ["--model", "mine", "--base-url", url])):
                out = tmp_path / f"{task}-{name}"
                assert main([*data, *line, "--out", str(out)]) == 0
                scores.append(json.loads((out / "scores.json").read_text(encoding="utf-8")))
            here, there = (_answers(score) for score in scores)
            assert here == there
            assert here


def _answers(tree: object) -> list[object]:
    """Everything under `answer` and `accuracy`, wherever it is."""
    if isinstance(tree, dict):
        mine = [value for key, value in tree.items() if key in ("answer", "said", "score", "accuracy", "value")]
        return mine + [found for value in tree.values() for found in _answers(value)]
    return [found for value in tree for found in _answers(value)] if isinstance(tree, list) else []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "--model"),
        ("--model {tmp}/none", "none"),
        ("--model {tmp} --waiting 0", "--waiting must be at least 1"),
        ("--model {tmp} --cache-tokens 1", "--cache-tokens must be at least 16"),
        ("--model {tmp} --adapter x", "NAME=DIR"),
        ("--model {tmp} --name a --adapter a=b", "the model itself is called that"),
        ("--model {tmp} --media-root {tmp}/none", "no such folder"),
        ("--model {tmp} --port 99999999", "ports are from 0 to 65535"),
        ("--model {tmp} --prot 1", "Did you mean '--port'"),
    ],
)
def test_wrong_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    assert main(["serve", *line.format(tmp=tmp_path).split()]) == exits.USER_ERROR
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--model", str(tmp_path), "--port", port]) == exits.USER_ERROR
    assert f"port {port}: Address already in use" in capsys.readouterr().err


def test_names_of_models(tmp_path: Path) -> None:
    assert model_name("runs/demo-0/export") == "demo-0"
    assert model_name("models/my-model/") == "my-model"
    assert model_name("hf://owner/name") == "owner/name"
