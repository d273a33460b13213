# SPDX-License-Identifier: Apache-2.0
"""The chat page in a browser: it answers, stops, says where it runs and what went wrong, and asks nobody but its server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served

from meadow.runtime import Session

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
if BROWSER is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


def opened(browser: Any, served: Served, width: int = 1280, scheme: str = "light") -> Any:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_default_timeout(30_000)
    page.goto(served.url)
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_question_is_answered_as_a_session_does(
    width: int, scheme: str, browser: Any, served: Served, talkative: Path, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(served.url)
    page.get_by_text("EMULATED", exact=True).wait_for()
    assert page.inner_text("#model") == "tiny" and "zcu102" in page.inner_text("#where")
    page.get_by_text("Settings").click()
    page.fill("#max_tokens", "8")
    with Session(talkative) as session:
        messages = []
        for turn in range(2):
            page.fill("#say", f"s {turn}")
            page.press("#say", "Enter")
            page.locator(".turn.assistant .rate").nth(turn).filter(has_text="tokens").wait_for()
            messages.append({"role": "user", "content": f"s {turn}"})
            wanted = session.chat(messages, 8).read()
            messages.append({"role": "assistant", "content": wanted})
            assert page.locator(".turn.assistant > div:first-child").nth(turn).text_content() == wanted
    rate = page.locator(".rate").nth(1).inner_text()
    assert "tokens/s" in rate and "in the cache" in rate and "measured here, EMULATED" in rate
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(22, 23, 21)") == (scheme == "dark")
    page.screenshot(path=tmp_path / "page.png")
    assert all(url.startswith(served.url) for url in asked) and faults == []
    page.close()


def test_an_answer_can_be_stopped_and_a_new_conversation_begun(browser: Any, served: Served) -> None:
    page = opened(browser, served)
    page.get_by_text("Settings").click()
    page.fill("#max_tokens", "110")
    page.fill("#say", "s")
    page.click("#send")
    page.locator(".turn.assistant > div:first-child").filter(has_text="a").wait_for()
    page.click("#stop")
    page.locator(".rate").filter(has_text="stopped").wait_for()
    assert page.is_visible("#send") and not page.is_visible("#stop")
    page.click("#reset")
    assert page.locator(".turn").count() == 0
    page.close()


def test_what_the_server_says_against_it_is_shown_as_text(browser: Any, served: Served) -> None:
    page = opened(browser, served)
    page.fill("#say", "<b>w</b> " * 200)
    page.press("#say", "Enter")
    page.locator(".turn.error").filter(has_text="the context of this package holds 128").wait_for()
    assert page.locator(".turn.user b").count() == 0
    page.fill("#say", "s")
    page.press("#say", "Enter")  # the message that failed is not sent again
    page.locator(".turn.assistant:not(.error) .rate").filter(has_text="tokens").wait_for()
    page.close()
