"""The chat page in a real browser: everything a person does there, and that it loads nothing from elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from neo_lightning.answering import Engine
from neo_lightning.serving.app import PAGE, content_policy
from tests.serving.conftest import NAME, Running, picture, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser to drive")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
SLOW = 120_000
"""Milliseconds that a step may take on a busy machine."""


class Tab:
    """A page, with what went wrong in it."""

    def __init__(self, context: sync_api.BrowserContext, address: str) -> None:
        self.page, self.wrong, self.asked = context.new_page(), list[str](), set[str]()
        self.page.set_default_timeout(SLOW)
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "request", lambda request: self.asked.add(urlsplit(request.url).netloc or urlsplit(request.url).scheme)
        )
        self.page.goto(address)
        sync_api.expect(self.page.locator("#model")).to_have_text(NAME)

    def ask(self, text: str) -> None:
        self.page.get_by_label("Question", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def idle(self) -> None:
        """Until the answer has ended."""
        sync_api.expect(self.page.locator("#send")).to_be_visible(timeout=SLOW)

    def snap(self, name: str) -> None:
        """A picture for people, where they want them."""
        if folder := os.environ.get("NEO_SNAPSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()


def test_the_policy_names_the_pages_own_script() -> None:
    page = PAGE.read_text(encoding="utf-8")
    policy = content_policy(page)
    assert "unsafe" not in policy
    assert policy != content_policy(page.replace('"use strict"', '"use strict" ')), "another script is not allowed"
    for word in ("http://", "https://", "//cdn", "@import", "url("):
        assert word not in page, f"{word}: something from elsewhere"


@needs_chromium
@pytest.mark.slow
def test_a_conversation(
    browser: sync_api.Browser, running: Running, media: dict[str, list[Path]], tmp_path: Path
) -> None:
    """Upload, see, ask, stream, look, reload, rename, delete: by the names that a screen reader says."""
    (tmp_path / "photo.png").write_bytes(picture((200, 120)))
    shutil.copy(media["video"][0], tmp_path / "clip.mp4")
    context = browser.new_context(viewport={"width": 1180, "height": 820})
    tab = Tab(context, running.address)
    page, expect = tab.page, sync_api.expect
    page.get_by_label("Pictures and clips", exact=True).set_input_files([tmp_path / "photo.png", tmp_path / "clip.mp4"])
    expect(page.locator("#shown figcaption").first).to_contain_text("200 × 120, shown as")
    expect(page.locator("#shown figcaption").nth(1)).to_contain_text("3 frames")
    expect(page.locator("#room")).to_contain_text("of 4096 tokens")
    tab.snap("chosen")
    tab.ask("What is this?")
    tab.idle()
    answer = page.locator("article.assistant .said")
    expect(answer).not_to_be_empty()
    said = answer.inner_text()
    expect(page.locator("article.assistant .under")).to_contain_text("tokens")
    expect(page.get_by_role("status")).to_contain_text("Answer:")

    page.get_by_role("button", name="What the model sees").click()
    expect(page.locator(".user .looking .frames figcaption")).to_have_count(3)
    page.get_by_role("button", name="Where it looked").click()
    page.locator(".word").first.click()
    expect(page.locator(".assistant .looking")).to_contain_text("of its attention is on what was shown")
    expect(page.locator(".assistant .looking canvas.heat")).to_have_count(4)
    before = page.locator(".assistant .looking").inner_text()
    page.get_by_label("Layer").select_option("1")
    expect(page.locator(".assistant .looking")).not_to_have_text(before, use_inner_text=True)
    expect(page.locator(".assistant .looking")).to_contain_text("of its attention is on what was shown")
    page.locator(".assistant .looking").scroll_into_view_if_needed()
    tab.snap("looked")

    page.reload()
    expect(page.locator("article.assistant .said")).to_have_text(said, use_inner_text=True)
    expect(page.locator("article.user img")).to_be_visible()
    tab.ask("And now?")
    tab.idle()
    expect(page.locator("article")).to_have_count(4)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("article")).to_have_count(0)
    tab.snap("new")
    page.get_by_role("button", name="Rename What is this?").click()
    page.get_by_label("Name", exact=True).fill("Of a photo")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Of a photo", exact=True).click()
    expect(page.locator("article")).to_have_count(4)
    page.get_by_role("button", name="Delete Of a photo").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#list li")).to_have_count(0)
    assert tab.wrong == []
    assert tab.asked <= {urlsplit(running.address).netloc, "data", "blob"}
    context.close()


@needs_chromium
@pytest.mark.slow
def test_stop_errors_and_a_key(browser: sync_api.Browser, endless: Engine) -> None:
    with serving(endless, key="secret") as running:
        context = browser.new_context(viewport={"width": 1180, "height": 820}, color_scheme="dark")
        tab = Tab.__new__(Tab)
        tab.page = page = context.new_page()
        page.set_default_timeout(SLOW)
        page.goto(running.address)
        page.get_by_label("API key").fill("secret")  # the page asks for it by itself
        page.keyboard.press("Enter")
        expect = sync_api.expect
        expect(page.locator("#model")).to_have_text(NAME)
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Longest answer").fill("4000")
        page.get_by_label("Temperature").fill("1")
        page.get_by_role("button", name="Done").click()
        tab.ask("Tell me everything")
        expect(page.locator("article.assistant .said")).not_to_be_empty()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("article.assistant .under")).to_contain_text("stopped")
        while running.service.batching.load().running:
            page.evaluate("fetch('/health')")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Longest answer").fill("9000")
        page.get_by_role("button", name="Done").click()
        tab.ask("More")
        expect(page.get_by_role("alert")).to_contain_text("there is room for 4096")
        tab.snap("error")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Longest answer").fill("3")
        page.get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Ask again").click()
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.locator("article.assistant .under").last).to_contain_text("cut at the longest answer")
        context.close()


@needs_chromium
@pytest.mark.slow
def test_deleted_and_left_while_the_model_answers(browser: sync_api.Browser, engine: Engine) -> None:
    """A deleted conversation stays so, and a question belongs to the conversation in which it was asked."""
    with serving(engine, cache_tokens=40960) as running:
        context = browser.new_context(viewport={"width": 1180, "height": 820})
        tab = Tab(context, running.address)
        page, expect = tab.page, sync_api.expect
        page.evaluate("() => { settings.max_tokens = '8000'; settings.temperature = '1.5'; }")
        tab.ask("Tell me everything")
        expect(page.locator("article.assistant .said")).not_to_be_empty()
        page.get_by_role("button", name="Delete Tell me everything").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        tab.idle()
        expect(page.locator("#list li")).to_have_count(0)
        assert page.evaluate("kept('conversations', 'readonly', (s) => s.getAll())") == []
        page.evaluate(
            "async () => { $('question').value = 'Asked'; const asked = ask(); await show(null); await asked; }"
        )
        expect(page.locator("article")).to_have_count(0)
        (first,) = page.evaluate("kept('conversations', 'readonly', (s) => s.getAll())")
        assert [turn["text"] for turn in first["turns"]] == ["Asked", "…"]
        assert page.evaluate("current.turns") == []
        assert tab.wrong == []
        context.close()


@needs_chromium
@pytest.mark.slow
def test_on_a_phone(browser: sync_api.Browser, running: Running, tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(picture((1600, 300)))
    (tmp_path / "notes.txt").write_text("no picture")
    context = browser.new_context(viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True)
    tab = Tab(context, running.address)
    page, expect = tab.page, sync_api.expect
    fits = (
        "document.documentElement.scrollWidth <= innerWidth && document.querySelector('#log').scrollWidth <= innerWidth"
    )
    assert page.evaluate(fits)
    page.get_by_label("Pictures and clips", exact=True).set_input_files([tmp_path / "wide.png", tmp_path / "notes.txt"])
    expect(page.locator("#shown figure")).to_have_count(1)
    expect(page.locator("#shown figcaption")).to_contain_text("1600 × 300")
    tab.ask("x" * 400)
    tab.idle()
    assert page.evaluate(fits)
    tab.snap("phone")
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_role("button", name="New conversation")).to_be_visible()
    tab.snap("phone-menu")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="New conversation")).to_be_hidden()
    assert page.evaluate(fits)
    assert tab.wrong == []
    context.close()
