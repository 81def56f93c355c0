from __future__ import annotations

import os
from pathlib import Path

import pytest
from importer_helpers import CLIP, DRAWING, PHOTO


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder of media, with traps in it and a file beside it that must never be read."""
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    files = {"a.jpg": PHOTO, "sub/b.PNG": DRAWING, "sub/c.mp4": CLIP, "broken.png": b"\x89PNG\r\n\x1a\nxxxx"}
    files |= {
        "note.tiff": b"II*\0",
        "empty.jpg": b"",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    files |= {"list.mp4": b"#EXTM3U\nfile:///etc/passwd\n", "drawing_named.jpg": DRAWING}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (tmp_path / "secret.jpg").write_bytes(PHOTO)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "s.jpg").write_bytes(PHOTO)
    (folder / "way_out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "ways_out").symlink_to(tmp_path / "secrets")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "way_in.jpg").symlink_to(folder / "a.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder
