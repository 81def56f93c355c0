"""A run's folder -> the model card of its export: README.md as Hugging Face reads it, a pure function of what is there.

In: report.json, recipe.yaml, and scores/scores.json where `neo-lightning eval` has written one. Of folders of this
machine only the last part of their names is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import yaml

from neo_lightning.evaluation.words import count, duration, label, percent

TAGS = ("neo-ov", "vision-language", "encoder-free", "neo_lightning")
_OF_NEO_OV = ("neo-ov", "encoder-free")
Row = tuple[str, ...]
_CELL = re.compile(r"[|\n\r]+")


def model_card(
    name: str,
    *,
    report: Mapping[str, Any],
    recipe: str,
    scores: Mapping[str, Any] | None,
    licence: str,
    base: str | None = None,
    design: Mapping[str, Any] | None = None,
) -> str:
    """The card's text.

    Args:
        name: the model's, for the heading and the example.
        report: content of report.json.
        recipe: text of recipe.yaml.
        scores: content of scores.json.
        licence: an identifier of the hub, such as `apache-2.0`.
        base: id of the model that it was trained from.
        design: `design` of its config.json, where it is no NEO-ov: transformers does not read it then.
    """
    head = {
        "license": licence,
        "library_name": "neo_lightning" if design else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": [tag for tag in TAGS if not design or tag not in _OF_NEO_OV],
        **({"base_model": base} if base else {}),
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False).strip()}\n---",
        f"# {name}",
        f"{_kind(design)} of {count(report['model']['parameters'])} parameters, trained with neo_lightning "
        f"{_version(report)}.",
        *map(_cell, report["summary"]),
        _use_here(name) if design else _use(name),
        "## Scores\n\n" + ("\n\n".join(_scores(report, scores)) or "None have been taken."),
        "## Training\n\n" + "\n\n".join(_training(report)),
        "## Recipe\n\n```yaml\n" + without_folders(recipe).strip() + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _kind(design: Mapping[str, Any] | None) -> str:
    if not design:
        return "A native vision-language model (NEO-ov: one decoder from pixels and words, no vision encoder)"
    axes = ", ".join(f"`{axis}`" for axis in design)
    return f"A vision-language model that differs from NEO-ov in {axes} (`design` in config.json)"


def _use_here(name: str) -> str:
    return f"""## Use

```python
import neo_lightning

model = neo_lightning.load("hf://{name}")
print(model.answer("What is this?", images=["photo.png"]))
```

The folder carries the pixel budgets and frames of its last training stage, and the chat template. It is not read by
transformers."""


def _use(name: str) -> str:
    return f"""## Use

```python
from transformers import pipeline

ask = pipeline("image-text-to-text", model="{name}", trust_remote_code=True)
words = [{{"type": "image", "path": "photo.png"}}, {{"type": "text", "text": "What is this?"}}]
print(ask(text=[{{"role": "user", "content": words}}], return_full_text=False))
```

The folder carries its code, the pixel budgets and frames of its last training stage, and the chat template."""


def _scores(report: Mapping[str, Any], scores: Mapping[str, Any] | None) -> Iterator[str]:
    """What `eval` scored, with the settings, and what the run's own evaluations say."""
    if scores and scores["benchmarks"]:
        yield "Taken by `neo-lightning eval`, with 95% intervals:"
        rows: list[Row] = [("benchmark", "score", "95% interval", "questions", "metric", "asked")]
        for result in scores["benchmarks"].values():
            low, high = (percent(x) if x is not None else "–" for x in result["interval"])
            rows.append(
                (
                    result["title"],
                    percent(result["score"]) if result["score"] is not None else "–",
                    f"{low} to {high}",
                    f"{result['questions']:,}",
                    result["headline"],
                    _how(result["settings"]),
                )
            )
        yield _table(rows)
    for name, found in report["evaluations"].items():
        if "types" in found:
            yield f"Held-out questions of the run's evaluation `{_cell(name)}`, exact match:"
            rows = [("question type", "exact match", "95% interval", "questions", "chance")]
            for kind, entry in found["types"].items():
                low, high = entry["interval"]
                rows.append(
                    (
                        label(kind),
                        percent(entry["accuracy"]),
                        f"{percent(low)} to {percent(high)}",
                        f"{entry['total']:,}",
                        percent(entry["chance"]),
                    )
                )
            yield _table(rows)
        elif plain := {key: value for key, value in found.items() if isinstance(value, int | float | str)}:
            yield f"The run's evaluation `{_cell(name)}`:"
            yield _table([("", ""), *((label(key), _figure(value)) for key, value in plain.items())])


def _how(settings: Mapping[str, Any]) -> str:
    decoding = settings["decoding"]
    how = f"temperature {decoding['temperature']:g}" if decoding.get("temperature") else "likeliest tokens"
    image = settings["image"]
    budget = f"{image['min_pixels']:,} to {image['max_pixels']:,} pixels" if isinstance(image, Mapping) else image
    system = f", system prompt {settings['system']!r}" if settings["system"] else ""
    return f"{how}, up to {decoding['max_new_tokens']:g} tokens; {budget}{system}; seed {settings['seed']}"


def _training(report: Mapping[str, Any]) -> Iterator[str]:
    rows: list[Row] = [("stage", "steps", "row", "rows a step", "rate", "trains", "mixture", "pixels of an image")]
    for stage in report["stages"]:
        mixture = ", ".join(f"{source} {weight:g}" for source, weight in stage["mixture"].items())
        image = stage["image"]
        rows.append(
            (
                stage["name"],
                f"{stage['steps']:,}",
                f"{stage['context']:,}",
                str(stage["packs_per_step"]),
                f"{stage['lr']:g}",
                ", ".join(stage["trains"]),
                mixture,
                f"{image['min_pixels']:,} to {image['max_pixels']:,}",
            )
        )
    yield _table(rows)
    seen = [value for value in report["curves"]["columns"].get("tokens", ()) if value is not None]
    if seen:
        yield f"Tokens seen: {count(seen[-1])}."
    skipped = report["skipped"]
    reasons = "; ".join(f"{number} {_cell(reason)}" for reason, number in skipped["by_reason"].items())
    yield f"Samples left out: {skipped['total']}{f' ({reasons})' if reasons else ''}."
    machine = report["machine"]
    devices = ", ".join(machine["accelerators"]) or f"{machine['cores']} cores of {machine['processor']}"
    training = report["wall_seconds"].get("training")
    took = f", {duration(training)} of training" if training else ""
    versions = ", ".join(f"{package} {number}" for package, number in report["versions"].items())
    yield f"Machine: {_cell(devices)}{took}; seed {report['seed']}. Versions: {_cell(versions)}."


def _version(report: Mapping[str, Any]) -> str:
    return str(report["versions"].get("neo-lightning", ""))


def without_folders(recipe: str) -> str:
    """A recipe in which absolute names of files, which say nothing elsewhere, are their last parts."""
    return re.sub(r"(?<![\w.$}:/])/(?:[\w.@+ -]+/)+[\w.@+*{},-]*", lambda found: PurePath(found[0]).name, recipe)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: Any) -> str:
    """Text that ends no cell and no line."""
    return _CELL.sub(" ", str(text)).strip()


def _table(rows: list[Row]) -> str:
    head, *rest = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *rest])
