"""Where a model or a tokenizer lies: a folder, or a repository on Hugging Face that is asked for by that name.

    runs/demo/export            a folder; if it is not there that is an error, and nothing is asked of any network
    hf://owner/name             fetched once into the Hugging Face cache

A name without `hf://` is never looked up outside. `owner/name` alone would be shorter, but `runs/tokenizer` is of that
form too: a folder that is missing, or sought from another working directory, would become a stranger's repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

SCHEME = "hf://"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def resolve_folder(source: str | Path, make: str, *, fetch: tuple[str, ...] = _FETCHED) -> Path:
    """The folder that a name stands for.

    Args:
        source: a local folder (`~` is the home folder), or `hf://owner/name`.
        make: what makes such a folder, for the error: "a model folder is made by `...`".
        fetch: patterns of the files that are fetched from a repository.

    Raises:
        ValueError: no such folder, not the name of a repository, or it cannot be fetched; says what to do.
    """
    text = str(source)
    if text.startswith(SCHEME):
        return _fetch(text, fetch)
    folder = Path(os.path.expanduser(text))  # unlike pathlib's it leaves the home of a user who is not there
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{text} is a file, and a folder is needed: {make}")
    hint = f"; the repository on Hugging Face is {SCHEME}{text}" if _ID.fullmatch(text) and ".." not in text else ""
    raise ValueError(f"{text}: no such folder. {make[:1].upper()}{make[1:]}{hint}")


def repository_of(source: str) -> str:
    """`owner/name` of `hf://owner/name`.

    Raises:
        ValueError: it is of another form.
    """
    name = source.removeprefix(SCHEME)
    if not source.startswith(SCHEME) or not _ID.fullmatch(name) or ".." in name:
        raise ValueError(f"{source}: a repository on Hugging Face is named {SCHEME}owner/name")
    return name


def _fetch(source: str, patterns: tuple[str, ...]) -> Path:
    name = repository_of(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's errors have no common base: network, access, missing repository
        raise ValueError(
            f"{source}: fetching it from Hugging Face failed ({type(error).__name__}: {error}); "
            "where it lies on this machine, name its folder"
        ) from error
