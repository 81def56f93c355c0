"""`neo-lightning model publish`: a finished run's export, with its model card, to a repository on Hugging Face.

RUN/report.json, recipe.yaml, scores/ --report.card--> RUN/export/README.md
RUN/export/ --only with --to--> hf://owner/name
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .errors import UserError


def publish(args: argparse.Namespace) -> None:
    """Write the card, say what belongs to the model, and push it where that is asked for."""
    run: Path = args.run
    export = run / "export"
    if not (export / "config.json").is_file() or not (run / "report.json").is_file():
        raise UserError(
            f"{run} is no finished run with an export and a report (RUN/export, RUN/report.json): `lightning run "
            "RECIPE` leaves both"
        )
    target = _repository(args.to)
    (export / "README.md").write_text(_card(run, target or args.name or run.name, args), encoding="utf-8")
    files = sorted(path for path in export.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for path in files:
        print(f"{path.stat().st_size:>14,}  {path.relative_to(export)}")
    size = sum(path.stat().st_size for path in files)
    print(f"{export}: {len(files)} files, {size / 1e6:,.1f} MB, with the card README.md")
    if target is None:
        print("nothing was sent; --to hf://owner/name pushes these files there")
        return
    _push(export, target, private=args.private, files=[str(path.relative_to(export)) for path in files])


def _card(run: Path, name: str, args: argparse.Namespace) -> str:
    from ..report.card import model_card

    recipe, scores = run / "recipe.yaml", run / "scores" / "scores.json"
    return model_card(
        name,
        report=_read(run / "report.json"),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "# not kept",
        scores=_read(scores) if scores.is_file() else None,
        licence=args.licence,
        base=args.base,
        design=_read(run / "export" / "config.json").get("design"),
    )


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); the command that wrote it writes it again") from error


def _repository(name: str | None) -> str | None:
    from ..hub import repository_of

    return None if name is None else repository_of(name)


def _push(folder: Path, target: str, *, private: bool, files: list[str]) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(target, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=target, allow_patterns=files)
    except Exception as error:  # the hub's errors have no common base: network, access, quota
        raise UserError(
            f"pushing to hf://{target} failed ({type(error).__name__}: {error}). The folder is ready: {folder}. With a "
            "network and `hf auth login` (or HF_TOKEN) the same command pushes it"
        ) from error
    print(f"pushed to hf://{target}")
