"""The page of inspected packs: it shows what is in the batches, obeys nobody's text, and works in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.media.image import patchify
from neo_lightning.data.plan import PlanError
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.report.inspect import Inspected, collect, render
from neo_lightning.report.inspect.columns import pack_runs
from neo_lightning.report.inspect.mask import mask_svg
from neo_lightning.report.inspect.pictures import Album
from neo_lightning.report.inspect.rows import spans_of
from neo_lightning.report.inspect.words import Words, plain
from neo_lightning.types import IGNORE, PixelBudget, Stage, VideoBudget
from tests.data.data_helpers import chat, clip, encoded, make_tokenizer, picture, write_tar
from tests.report.browser import Browser, headless, installed

HOSTILE = "</i></script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>\u202e<|im_end|>'\""
HOSTILE_KEY = "\"><img src=x onerror=pwned=1>'"
SMALL = PixelBudget(min_pixels=32 * 32, max_pixels=128 * 128)


def unpack_runs(text: str) -> list[int]:
    """What the page's script does."""
    runs = (map(int, run.split(",")) for run in text.split(";") if run)
    return [first + step * i for first, step, count in runs for i in range(count)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Inspected:
    """Packs of texts, pictures and clips; among them a damaged picture, hostile strings, samples that are refused."""
    folder = tmp_path_factory.mktemp("inspect")
    make_tokenizer(folder / "tokenizer")
    texts = {f"t{i}.json": json.dumps({"text": f"left {i} right " * (1 + i % 5)}).encode() for i in range(20)}
    texts["long.json"] = json.dumps({"text": "red " * 400}).encode()
    write_tar(folder / "text.tar", texts)
    members: dict[str, bytes] = {}
    for i in range(12):
        members[f"i{i}.json"] = chat("<image>\nWhat is it?", f"number {i}")
        members[f"i{i}.png"] = encoded(picture(96, 64, i))
    for i in range(4):
        members |= {f"cut{i}.json": chat("<image>\nWhat?", "cut"), f"cut{i}.png": encoded(picture(96, 96, i))[:-600]}
    members |= {f"{HOSTILE_KEY}.json": chat(f"<image>\n{HOSTILE}", HOSTILE), f"{HOSTILE_KEY}.png": encoded(picture())}
    members |= {"two.json": chat("<image><image>", HOSTILE), "two.png": encoded(picture(200, 100, 5))}
    write_tar(folder / "image.tar", members)
    movie = clip(6)
    write_tar(folder / "clips.tar", {f"c{i}.{e}": d for i in range(4) for e, d in (("mp4", movie), ("txt", b"grey"))})
    (folder / "m.yaml").write_text(
        "sources:\n  text: {modality: text, shards: text.tar}\n  image: {modality: image, shards: image.tar}\n"
        "  clips: {modality: video, shards: clips.tar}\n"
    )
    video = VideoBudget(fps=None, max_frames=3, min_pixels=32 * 32, max_pixels=64 * 64)
    stages = {
        "warm": Stage(steps=2, context=128, packs_per_step=2, lr=1e-3, mixture={"text": 1}),
        "mid": Stage(
            steps=9,
            context=256,
            packs_per_step=2,
            lr=1e-3,
            mixture={"text": 1, "image": 3, "clips": 1},
            image=SMALL,
            video=video,
        ),
    }
    data = NeoDataModule(str(folder / "m.yaml"), stages, str(folder / "tokenizer"))
    return collect(data, packs=8, first_pack=4)


@pytest.fixture(scope="module")
def page(found: Inspected) -> str:
    return render(found, HOSTILE)


class Tree(HTMLParser):
    """Checks that tags are balanced and that nothing is loaded or run by an element."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            assert not name.startswith("on"), f"event handler {name} in <{tag}>"
            assert name not in ("href", "srcset", "action"), f"{name} in <{tag}>"
            assert name != "src" or (value or "").startswith("data:image/"), value
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("path", "line", "rect")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


@pytest.fixture(scope="module")
def tree(page: str) -> Tree:
    tree = Tree()
    tree.feed(page)
    tree.close()
    assert tree.open == []
    return tree


def sections(page: str) -> dict[int, str]:
    return {int(part.split('"')[0]): part for part in page.split('<section class="pack" id="pack-')[1:]}


def test_hostile_text_is_shown_and_not_obeyed(page: str, tree: Tree) -> None:
    assert [tag for tag, _ in tree.tags].count("script") == 1, "the page's own"
    assert "\u202e" not in page
    assert "‹U+202E›" in tree.text
    assert HOSTILE_KEY in tree.text
    assert "script-src 'sha256-" in page
    assert "http:" not in page
    assert "https:" not in page
    assert len(page) < 2_000_000


def test_every_pack_and_document_is_there(found: Inspected, page: str, tree: Tree) -> None:
    by_pack = sections(page)
    assert list(by_pack) == list(range(4, 12)), "the packs that were asked for"
    modalities = set()
    for _, spec, batch in found.packs:
        html = by_pack[spec.index]
        strip = re.findall(r'<button type="button" class="(\w+)[^"]*" style="flex-grow:(\d+)"', html)
        spans = spans_of(spec, batch)
        assert [(kind, int(size)) for kind, size in strip] == [(s.modality, s.last - s.first) for s in spans]
        assert [s.last - s.first for s in spans] == [d.length for d in spec.documents]
        modalities |= {s.modality for s in spans}
        for name, values in (("ids", batch.input_ids), ("start", batch.start), ("limit", batch.limit)):
            (packed,) = re.findall(rf' data-{name}="([^"]*)"', html)
            assert unpack_runs(packed) == values.tolist()
        for axis, name in enumerate("thw"):
            (packed,) = re.findall(rf' data-{name}="([^"]*)"', html)
            assert unpack_runs(packed) == batch.positions[:, axis].tolist()
        assert len(re.findall(r'<i class=("s x"|s)>', html)) == int((batch.targets != IGNORE).sum())
        texts = len(re.findall(r"<i[ >]", html)) - html.count("<summary><i></i>")
        assert texts == batch.info.tokens - batch.visual_index.numel()  # type: ignore[union-attr]
    assert modalities == {"text", "image", "video"}


def test_pictures_are_the_batchs_pixels(found: Inspected, page: str) -> None:
    seen = 0
    for _, spec, batch in found.packs:
        shown = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
            for data in re.findall(r'<img src="data:image/png;base64,([^"]+)"', sections(page)[spec.index])
        ]
        if spec is found.packs[-1][1]:
            shown = shown[: batch.grids.shape[0]]  # thumbnails of what is left out follow
        assert batch.visual_index.numel() == 0 or len(shown) == batch.grids.shape[0]
        patches = torch.cat([patchify(torch.from_numpy(p.copy()).permute(2, 0, 1)) for p in shown] or [batch.patches])
        assert torch.equal(patches, batch.patches)
        seen += len(shown)
    assert seen > 8


def test_what_is_left_out_and_what_is_damaged_is_told(found: Inspected, page: str, tree: Tree) -> None:
    kinds = {group.kind: group for group in found.left_out}
    assert {example.sample for group in kinds.values() for example in group.examples} >= {"image/two", "text/long"}
    (refused,) = (e for g in found.left_out for e in g.examples if e.sample == "image/two")
    ((address, note),) = refused.thumbnails()
    pixels = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert pixels.size == (96, 48)
    assert note == "two.png"
    assert address in page
    dead = [key for _, _, batch in found.packs for key, _ in batch.info.tombstones]  # type: ignore[union-attr]
    assert dead
    assert all(key.startswith("image/cut") for key in dead)
    assert tree.text.count("Blank pixels, weight 0") == len(dead)


def test_the_mixture_and_lengths_are_the_stages(found: Inspected, tree: Tree) -> None:
    assert found.name == "mid"
    assert set(found.lengths) == {"text", "image", "clips"}
    assert all((lengths > 0).all() and len(lengths) for lengths in found.lengths.values())
    assert "Mixture of stage mid" in tree.text
    assert "60.0%" in tree.text, "what is asked of the pictures"


def test_packs_that_do_not_exist_are_refused(found: Inspected, tmp_path: Path) -> None:
    data = NeoDataModule("m.yaml", {"mid": found.stage}, "tokenizer")
    with pytest.raises(PlanError, match="there are 18 packs"):
        collect(data, packs=1, first_pack=18)
    with pytest.raises(PlanError, match="at least one"):
        collect(data, packs=0)


@pytest.mark.parametrize("values", [[], [7], [1, 1, 1], [0, 1, 2, 9, 9, 4], [3, 1, 4, 1, 5, 9, 2, 6], [-1, 0, 1, 0, 1]])
def test_arrays_come_back_from_their_runs(values: list[int]) -> None:
    assert unpack_runs(pack_runs(torch.tensor(values, dtype=torch.int32))) == values
    assert pack_runs(torch.arange(10_000)) == "0,1,10000", "a long text is one run"


def test_the_masks_rows_cover_what_tokens_see_and_never_another_document() -> None:
    lengths = [700, 5, 1300]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    start = torch.cat([torch.full((n,), end - n) for n, end in zip(lengths, ends, strict=True)])
    limit = torch.arange(1, 2006)
    limit[100:400] = 400
    svg = mask_svg(start, limit, [(0, 700, "image"), (700, 705, "text"), (705, 2005, "text")])
    drawn = np.zeros((2005, 2005), dtype=bool)
    for left, top, right, bottom in re.findall(r"M(\d+) (\d+)H(\d+)V(\d+)H", svg):
        drawn[int(top) : int(bottom), int(left) : int(right)] = True
    keys = torch.arange(2005)
    true = ((keys >= start[:, None]) & (keys < limit[:, None])).numpy()
    same = (start[:, None] == start[None]).numpy()
    assert not (true & ~drawn).any()
    assert not (drawn & ~same).any()
    assert (drawn & ~true).sum() < 0.02 * drawn.sum()


def test_every_character_of_a_token_is_visible(tokenizer: Tokenizer) -> None:
    words = Words(tokenizer)
    shown = [words.html(token) for token in tokenizer.encode_text("a\n\u200b€<")]
    assert shown[:2] == ["a", "↵\n"]
    assert "".join(shown).endswith("&lt;")
    assert all("\ufffd" not in text for text in shown)
    assert words.html(tokenizer.img_start_id) == "&lt;img&gt;"
    assert words.html(tokenizer.special["<box>"]) == "&lt;box&gt;"
    assert tokenizer.special["<box>"] in words.special
    assert words.html(10**9) == "‹no token 1000000000›"
    assert plain("\ud800\x00\t") == "‹U+D800›‹U+0000›⇥\t"


def test_a_full_album_makes_thumbnails() -> None:
    noise = torch.randint(0, 256, (3, 512, 384), dtype=torch.uint8)
    album = Album(400_000)
    shown = [album.add(noise) for _ in range(3)]
    assert not shown[0].reduced
    assert shown[-1].reduced
    assert len(shown[-1].source) < 40_000


@pytest.fixture(scope="module")
def browser(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if (program := installed()) is None:
        pytest.skip("no Chromium or Chrome on the path")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "inspect.html").write_text(page, encoding="utf-8")
    with headless(program, folder / "profile") as browser:
        browser.open(folder / "inspect.html")
        yield browser


def test_a_browser_shows_the_page_without_an_error(browser: Browser) -> None:
    assert browser.run("document.querySelectorAll('.pack').length") == 8
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.run("typeof window.pwned") == "undefined"
    assert browser.errors == []


def test_a_click_opens_a_document(browser: Browser, found: Inspected) -> None:
    pack = next(spec.index for _, spec, _ in found.packs if len(spec.documents) > 1)
    browser.point(f'#pack-{pack} .strip button[data-document="1"]', click=True)
    opened = f"[...document.querySelectorAll('#pack-{pack} details')].filter(d => d.open).map(d => d.id)"
    assert browser.run(opened) == [f"pack-{pack}-1"]
    assert browser.errors == []


def test_pointing_tells_a_tokens_place(browser: Browser, found: Inspected) -> None:
    pack, span, batch = next(
        (spec.index, span, batch)
        for _, spec, batch in found.packs
        for span in spans_of(spec, batch)
        if span.units and span.units[0].columns > 1
    )
    unit = span.units[0]
    button = f'#pack-{pack} .strip button[data-document="{span.number}"]'
    browser.point(button, click=True)
    browser.point(f"#pack-{pack}-{span.number} .frame img", right=0.99, down=0.01)
    token = unit.first + unit.columns - 1
    t, h, w = batch.positions[token].tolist()
    assert (h, w) == (0, unit.columns - 1)
    told = browser.run("document.getElementById('tip').textContent")
    assert f"token {token}," in told
    assert f"(t, h, w) = ({t}, {h}, {w})" in told
    assert f"sees tokens {span.first} to {unit.last - 1}" in told
    browser.point(f"#pack-{pack}-{span.number} .run i", click=True)
    assert browser.run("document.getElementById('tip').textContent").startswith(f"token {span.first}, id ")
    assert browser.run("document.querySelectorAll('.run .seen').length") == 1, "the first token sees itself alone"
    browser.point(f"#pack-{pack} .whole svg", right=0.9, down=0.001)
    assert "token 0 does not see token" in browser.run("document.getElementById('tip').textContent")
    browser.point("h1")
    assert browser.run("document.getElementById('tip').hidden")
    assert browser.errors == []
