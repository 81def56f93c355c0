"""Which files are pictures and clips: one list, by content, for the whole package.

A format is told by its first bytes, never by its name. Decoded are those with a reader; all others that people have are
known by name, so that a reason can say what was found and what to do. Extensions only say which files of a folder or
members of a shard are meant as media; a picture in a format that is not decoded has its extension here too, so that
it is left out with a reason instead of being passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of file."""

    name: str
    """As people call it."""
    kind: Literal["image", "video", "other"]
    reader: str = ""
    """Pillow's name of the format, or FFmpeg's name of the demuxer; empty: not decoded."""
    extensions: tuple[str, ...] = ()
    """Usual extensions; the first is the one that is written."""
    advice: str = ""
    """What to do with a file that is not decoded, where it is not simply converted."""


def _image(name: str, *extensions: str, reader: str = "") -> Format:
    return Format(name=name, kind="image", reader=reader, extensions=extensions)


def _video(name: str, *extensions: str, reader: str = "") -> Format:
    return Format(name=name, kind="video", reader=reader, extensions=extensions)


def _other(name: str, advice: str = "") -> Format:
    return Format(name=name, kind="other", advice=advice)


JPEG = _image("JPEG", "jpg", "jpeg", "jpe", "jfif", "mpo", reader="JPEG")
PNG = _image("PNG", "png", "apng", reader="PNG")
WEBP = _image("WebP", "webp", reader="WEBP")
GIF = _image("GIF", "gif", reader="GIF")
BMP = _image("BMP", "bmp", reader="BMP")
TIFF = _image("TIFF", "tif", "tiff", reader="TIFF")
AVIF = _image("AVIF", "avif", reader="AVIF")
HEIC = _image("HEIC", "heic", "heif")
JPEG_2000 = _image("JPEG 2000", "jp2", "j2k", "jpx")
JPEG_XL = _image("JPEG XL", "jxl")
PSD = _image("Photoshop", "psd")
RAW = _image("camera raw", "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2")
ICO = _image("ICO", "ico")
SVG = _image("SVG", "svg")

MP4 = _video("MP4", "mp4", "m4v", reader="mp4")
MOV = _video("QuickTime", "mov", "qt", reader="mp4")
THREE_GP = _video("3GP", "3gp", "3g2", reader="mp4")
WEBM = _video("WebM", "webm", reader="matroska")
MATROSKA = _video("Matroska", "mkv", reader="matroska")
AVI = _video("AVI", "avi", reader="avi")
MPEG_TS = _video("MPEG transport stream", "ts", "mts", "m2ts", reader="mpegts")
MPEG_PS = _video("MPEG program stream", "mpg", "mpeg", "vob", reader="mpeg")
FLV = _video("Flash video", "flv", reader="flv")
OGG = _video("Ogg", "ogv", reader="ogg")
ASF = _video("Windows Media", "wmv", "asf", reader="asf")
REAL = _video("RealMedia", "rm", "rmvb")
MXF = _video("MXF", "mxf")

_MEDIA = (
    *(JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIC, JPEG_2000, JPEG_XL, PSD, RAW, ICO, SVG),
    *(MP4, MOV, THREE_GP, WEBM, MATROSKA, AVI, MPEG_TS, MPEG_PS, FLV, OGG, ASF, REAL, MXF),
)

IMAGE_EXTENSIONS = tuple(extension for f in _MEDIA if f.kind == "image" for extension in f.extensions)
VIDEO_EXTENSIONS = tuple(extension for f in _MEDIA if f.kind == "video" for extension in f.extensions)
IMAGE_READERS = tuple(f.reader for f in _MEDIA if f.kind == "image" and f.reader)
"""Pillow's names of the image formats that are decoded. Pillow knows more, among them formats that run programs."""

_PLAYLIST = _other("playlist", "name the clips themselves; no file is opened that another one names")

_STARTS: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"BM", BMP),
    (b"II*\0\x10\0\0\0CR", RAW),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    (b"IIU\0", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"FOVb", RAW),
    (b"\0\0\0\x0cjP  ", JPEG_2000),
    (b"\xff\x4f\xff\x51", JPEG_2000),
    (b"\0\0\0\x0cJXL ", JPEG_XL),
    (b"\xff\x0a", JPEG_XL),
    (b"8BPS", PSD),
    (b"\0\0\1\0", ICO),
    (b"\x76\x2f\x31\x01", _image("OpenEXR")),
    (b"#?RADIANCE", _image("Radiance HDR")),
    (b"DDS ", _image("DDS")),
    (b"gimp xcf", _image("GIMP")),
    (b"AT&TFORM", _image("DjVu")),
    *((b"P%d" % n + space, _image("PNM")) for n in range(1, 8) for space in (b"\n", b" ", b"\r", b"\t")),
    (b"%PDF", _other("PDF", "make a picture of each page")),
    (b"%!PS", _other("PostScript", "make a picture of each page")),
    (b"\xc5\xd0\xd3\xc6", _other("PostScript", "make a picture of each page")),
    (b"\x1a\x45\xdf\xa3", MATROSKA),
    (b"FLV\1", FLV),
    (b"OggS", OGG),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ASF),
    (b"\0\0\1\xba", MPEG_PS),
    (b".RMF", REAL),
    (b"\x06\x0e\x2b\x34", MXF),
    (b"#EXTM3U", _PLAYLIST),
    (b"ffconcat", _PLAYLIST),
    (b"ID3", _other("MP3 sound")),
    (b"fLaC", _other("FLAC sound")),
    (b"version https://git-lfs", _other("Git LFS pointer", "fetch the file itself with `git lfs pull`")),
    (b"PK\3\4", _other("ZIP archive", "unpack it")),
    (b"\x1f\x8b", _other("gzip archive", "unpack it")),
    (b"\x93NUMPY", _other("NumPy array", "write it as a PNG or a clip")),
)

_RIFF = {b"WEBP": WEBP, b"AVI ": AVI, b"AVIX": AVI, b"WAVE": _other("WAV sound")}
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"), HEIC),
    b"crx ": RAW,
    b"qt  ": MOV,
    b"M4A ": _other("MPEG-4 sound"),
}
_QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_MARKUP: tuple[tuple[bytes, Format], ...] = (
    (b"<svg", SVG),
    (b"<mpd", _PLAYLIST),
    (b"<html", _other("HTML page", "perhaps a server's error page; fetch the file again")),
)


def format_of(data: bytes) -> Format | None:
    """The format that the first bytes tell; None where they are of none that is known."""
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _by_brand(data)
    if data[4:8] in _QUICKTIME_ATOMS:  # of the time before `ftyp`
        return MOV
    for start, found in _STARTS:
        if data.startswith(start):
            return WEBM if found is MATROSKA and b"webm" in data[:64] else found
    for packet, at in ((188, 0), (192, 4)):
        if len(data) >= at + 3 * packet and all(data[at + k * packet] == 0x47 for k in range(3)):
            return MPEG_TS
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<"):
        return next((found for tag, found in _MARKUP if tag in head), _other("XML text"))
    return None


def _by_brand(data: bytes) -> Format:
    """Of a file of boxes (ISO 14496-12): its first box names the brand, and behind it those that it is as well."""
    brand, end = data[8:12], min(int.from_bytes(data[:4], "big"), 256)
    if brand in (b"mif1", b"msf1") and any(data[at : at + 4] in (b"avif", b"avis") for at in range(16, end, 4)):
        return AVIF
    return _BRANDS.get(brand, THREE_GP if brand.startswith(b"3g") else MP4)


def refusal(data: bytes, wanted: Literal["image", "video"]) -> str:
    """Why bytes that are no decodable medium of the wanted kind are left out, and what to do."""
    if not data:
        return "zero bytes"
    decoded = ", ".join(f.name for f in _MEDIA if f.kind == wanted and f.reader)
    thing, target = ("an image", "JPEG or PNG") if wanted == "image" else ("a clip", "MP4 (H.264)")
    found = format_of(data)
    if found is None:
        return f"not {thing} in a known format (starts with {data[:8]!r}; decoded are {decoded})"
    if found.kind == wanted:
        return f"{found.name} is not decoded: convert it to {target} (decoded are {decoded})"
    if found.kind == "other":
        return f"{found.name}, not {thing}" + (f": {found.advice}" if found.advice else "")
    return f"{found.name}, not {thing}: name it as {found.kind}"
