"""README.md, as its reader goes through it: every command and code block in order, in one fresh clone; behind it the
programs of docs/using.md.

`tests/readme/steps.py` finds them, so that a new block is tried without a word here: it has to end with status 0.
`tests/readme/stand_ins.py` has what the reader has (photographs, models) and what is not run, with the reason;
`tests/readme/program.py` what makes a command small. `PROMISES` is what the text says of a command beyond its status.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import elsewhere
from tests.forks import Server
from tests.readme import stand_ins
from tests.readme.served import ask_the_server
from tests.readme.steps import Step, read

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
USING = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")


def exists(*names: str) -> Callable[[Path, str], None]:
    """The command leaves these files, none of them empty."""

    def check(folder: Path, output: str) -> None:
        for name in names:
            found = list(folder.glob(name))
            assert found, f"no {name}"
            assert all(path.is_dir() or path.stat().st_size for path in found)

    return check


def says(*words: str) -> Callable[[Path, str], None]:
    """The command's output has these words, in any case and order."""

    def check(folder: Path, output: str) -> None:
        missing = [word for word in words if word.lower() not in output.lower()]
        assert not missing, f"not said: {missing}"

    return check


def loads_nothing_from_outside(folder: Path, output: str) -> None:
    """`one page, with nothing loaded from outside`."""
    page = (folder / "inspect.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    assert 'src="data:image' in page, "pictures put together from the patches"


def six_samples(folder: Path, output: str) -> None:
    """Every record became a sample of a shard."""
    found = 0
    for shard in folder.glob("shards/*.tar"):
        with tarfile.open(shard) as members:
            found += sum(name.endswith(".json") for name in members.getnames())
    assert found == len(stand_ins.RECORDS)


PROMISES = {
    r"make demo": exists("runs/demo-0/report.html", "runs/demo-0/export/config.json"),
    r"lightning run recipes/demo.yaml": exists("runs/demo-0/report.html"),
    r"lightning chat ": says("/image", "/quit"),
    r"--config design/fuyu": exists("runs/fuyu/report.html", "runs/fuyu/export/config.json"),
    r"data import .*instructions\.json": six_samples,
    r"data check my_data": says("samples can be used", "0 are left out"),
    r"data stats my_data": says("cats", "clips", "turns", "megapixels", "seconds"),
    r"data plan my_recipe": says("fill", "cats", "clips", "left out"),
    r"data inspect my_recipe": loads_nothing_from_outside,
    r"--run\.name=warm": exists("runs/warm/report.html", "runs/warm/export/config.json"),
    r"lightning run finetune_small": exists("runs/finetune_small/export/*", "runs/finetune_small/recipe.yaml"),
    r"lightning run finetune_lora": exists("runs/finetune_lora/adapter/adapter_model.safetensors"),
    r"model merge .*my-merged": exists("my-merged/config.json", "my-merged/*.safetensors"),
    r"make photos": exists("runs/photos_lora/adapter/adapter_model.safetensors", "runs/photos_lora/report.html"),
    r"serve --model runs/photos_lora/merged": says("merged: http://"),
    r"my_callbacks\.Hello": says("Hi from step"),
    r"data stats my_photos": says("photos", "samples", "megapixels"),
    r"--data\.manifest=my_photos": exists("runs/own/export/config.json"),
    r"eval .*PETS": exists("runs/demo-0/scores/scores.html", "runs/demo-0/scores/pets/graded.jsonl"),
    r"eval .*colour-": says("exact match", "colour"),
    r"eval .*--source cats": says("ANLS", "cats"),
    r"serve --model runs/demo-0": says("demo-0: http://", "/v1"),
    r"serve --model .*--adapter mine": says("neo-ov-2b: http://"),
    r"model publish": exists("runs/demo-0/export/README.md"),
    r"model info": says("parameters"),
    r"data tokenizer --from": exists("runs/tokenizer/tokenizer.json"),
    r"model init --qwen3": exists("my-start/config.json", "my-start/*.safetensors", "my-start/tokenizer.json"),
    r"model export": exists("my-model/config.json", "my-model/*.safetensors"),
    r"plan neo_ov_2b": says("tokens/s", "memory"),
}
"""Pattern of a command -> what the text promises of it."""


@pytest.mark.slow
def test_what_the_readme_shows_does_what_it_says(tmp_path: Path, forks: Server) -> None:
    stand_ins.clone(tmp_path)
    environment = stand_ins.environment(tmp_path)
    kept: set[str] = set()
    steps = [("README.md", step) for step in read(README)]
    steps += [("docs/using.md", step) for step in read(USING) if step.kind == "python"]
    for file, step in steps:
        where = f"{file}, line {step.line}: {step.text}"
        assert step.kind != "unknown", f"{where}\nname a file in the block's first line, or teach tests/readme about it"
        stand_ins.after_the_demo(tmp_path)
        if step.kind == "file":
            (tmp_path / step.name).write_text(step.text, encoding="utf-8")
        elif not (step.kind == "command" and why_not(step.text)):
            status, output = execute(step, tmp_path, environment, forks)
            print(where, output, sep="\n")
            assert status == 0, f"{where}\nended with {status}\n{output[-6000:]}"
            for pattern, promise in PROMISES.items():
                if re.search(pattern, step.text):
                    kept.add(pattern)
                    promise(tmp_path, output)
    assert kept == set(PROMISES), f"promises about commands that the README does not have: {set(PROMISES) - kept}"


def execute(step: Step, folder: Path, environment: dict[str, str], forks: Server) -> tuple[int, str]:
    """Exit status and output of one command or program, in the reader's folder."""
    text = step.text
    for there, here in stand_ins.ELSEWHERE.items():
        text = text.replace(there, here)
    if step.kind == "python" and "from transformers import" in text:  # "in any environment", so in one without us
        home = folder / "elsewhere"
        home = home if home.exists() else elsewhere.make(folder, "torchao")
        try:
            return 0, elsewhere.run(home, text, cwd=folder, environment=environment)
        except subprocess.CalledProcessError as error:
            return error.returncode, error.output
    words = shlex.split(text, comments=True) if step.kind == "command" else []
    if words[1:2] == ["serve"]:
        program = next(step.text for step in read(SERVING) if step.kind == "python")
        return ask_the_server(words[1:], program, folder, environment, forks)
    if (
        words and words[0] in ("neo-lightning", "lightning") and "&&" not in words
    ):  # at once, where a shell adds nothing
        return forks.run("tests.readme.program:main", *words[1:], cwd=folder, environment=environment)
    arguments = ["bash", "-euo", "pipefail", "-c", text] if step.kind == "command" else [sys.executable, "-c", text]
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def why_not(command: str) -> str:
    """Why a command is not run; empty where it is."""
    return next((why for pattern, why in stand_ins.NOT_RUN.items() if re.search(pattern, command)), "")


def test_what_is_not_run_is_in_the_readme() -> None:
    commands = [step.text for step in read(README) if step.kind == "command"]
    gone = [p for p in stand_ins.NOT_RUN if not any(re.search(p, command) for command in commands)]
    assert not gone, f"exceptions for commands that the README does not have: {gone}"


def test_steps_are_found_in_fences_and_in_the_text() -> None:
    text = "Run `make demo` or `lightning run demo\n--a=1`.\n```bash\na \\\n  b   # c\n# d\ne\n```\n`x`\n"
    text += "```yaml\n# f.yaml\ng: 1\n```\n```python\nprint()\n```\n```toml\n```\n"
    found = [(step.kind, step.text, step.line) for step in read(text)]
    assert found == [
        ("command", "lightning run demo --a=1", 1),
        ("command", "a \\\n  b   # c", 4),
        ("command", "e", 7),
        ("file", "# f.yaml\ng: 1\n", 11),
        ("python", "print()\n", 15),
        ("unknown", "", 18),
    ]


def test_files_that_the_documents_name_are_there() -> None:
    """Links and paths in backquotes of README.md and docs/."""
    missing = []
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = file.read_text(encoding="utf-8")
        links = [(file.parent, target) for target in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
        paths = [
            (ROOT, path) for path in re.findall(r"`((?:tests|docs|recipes|benchmarks|neo_lightning)/[\w./-]+)`", text)
        ]
        missing += [f"{file.name}: {name}" for base, name in links + paths if not (base / name).exists()]
    assert not missing, missing


def test_the_house_is_drawn_with_all_its_rooms() -> None:
    rooms = {path.parent.name for path in (ROOT / "neo_lightning").glob("*/__init__.py")}
    for file, heading in (("README.md", "## The house"), ("docs/architecture.md", "## Rooms")):
        drawn = (ROOT / file).read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
        missing = rooms - set(re.findall(r"(\w+)/", drawn))
        assert not missing, f"{file} does not draw {missing}"
