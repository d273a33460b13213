# SPDX-License-Identifier: Apache-2.0
"""The report: one page that fetches nothing, says what the package is, and can be looked at, sorted and read in numbers in a browser."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meadow.cli import results
from meadow.cli.report import charts, diagram, page, pair
from meadow.machine.package.read import load

KEEP = results.keep
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def text(tiny_package: Path) -> str:
    return page.build(load(tiny_package), "trace.json")[0]


@pytest.fixture(scope="module")
def grouped(tiny_int4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from meadow import boards
    from meadow.compiler.pipeline import Options, compile_model

    folder = tmp_path_factory.mktemp("grouped") / "grouped"
    compile_model(tiny_int4, boards.load("kv260"), folder, Options(name="grouped"))
    return folder


def figures(text: str) -> dict[str, charts.Figure]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.S)
    assert found is not None
    made: dict[str, charts.Figure] = json.loads(found[1])
    return made


def test_the_page_names_nothing_to_fetch(text: str) -> None:
    own = text.replace(page._source("plotly-basic.min.js"), "")
    assert "@import" not in own and len(own) < len(text) - 1_000_000
    outside = [m for m in re.findall(r'(?:src|href|action)\s*=\s*"([^"]*)"', own) if not m.startswith(("#", "data:"))]
    assert outside == [] and not re.findall(r"url\(([^)]*)\)", own)
    assert not re.findall(r"https?://", own)


def test_the_page_has_every_part_once(text: str) -> None:
    for title in ("In short", "Board and engine", "Results", "Roofline", "Bytes of a decoded token", "GEMM or TPHS", "Resources",
                  "Decode over the context", "Time to the first token", "Where the time goes", "Timeline of a token", "Packing",
                  "Every matrix", "Memory map", "What was chosen, and why", "How to print these numbers again"):  # fmt: skip
        assert text.count(f"<h2>{title}") == 1
    named = re.findall(r'data-figure="(\w+)"', text)
    assert sorted(named) == sorted(figures(text)) and len(named) == 10
    anchors = re.findall(r'<a href="#(\w+)">', text)
    assert len(anchors) == 16 and all(text.count(f' id="{a}"') == 1 for a in anchors)
    assert "nan" not in re.findall(r"<b>([^<]*)</b>", text)
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", text)) <= set(re.findall(r"(--[a-z0-9-]+):", text)) | {"--name"}


def test_one_kind_of_work_has_one_colour_on_every_chart(text: str, tiny_package: Path, grouped: Path) -> None:
    colors: dict[str, set[str]] = {}
    for made in (*figures(text).values(), *figures(pair.build(load(tiny_package), load(grouped))).values()):
        for trace in made["data"]:
            found = trace.get("marker", trace.get("line", {})).get("color") or trace.get("line", {}).get("color")
            if isinstance(found, str):
                colors.setdefault(trace["name"].split(",")[0].split(" of ")[0], set()).add(found)
    assert {name for name, some in colors.items() if len(some) > 1} == set()
    assert (
        len({next(iter(colors[n])) for n in ("weight ports", "memory port", "latency", "multipliers", "attention")})
        == 5
    )
    assert colors["weights"] == colors["weight ports"] and colors["kv"] == colors["attention"]


def test_charts_hide_nothing_of_what_they_show(text: str, tiny_package: Path) -> None:
    made, packing = figures(text), load(tiny_package).packing()
    dots = [t for t in made["packing"]["data"] if t["mode"] == "markers"]
    assert sum(len(t["y"]) for t in dots) == len(packing)
    assert "range" not in made["packing"]["layout"]["yaxis"]  # a head of more bits than the others is on it
    steps = sum(len(t["y"]) for t in made["layer"]["data"])
    assert steps == sum(s.layer == 0 for s in load(tiny_package).steps("decode"))
    last = load(tiny_package).design.context - 1
    assert made["bytes"]["data"][0]["y"][-1] == f"{last:,}" and made["rates"]["data"][0]["x"][-1] == last


def test_the_diagram_has_every_port_of_the_board(tiny_package: Path, grouped: Path) -> None:
    for folder in (tiny_package, grouped):
        package = load(folder)
        drawn = diagram.draw(package, 17.07)
        ports = package.manifest["hardware"]["ports"]
        assert all(f">{port}, 128 bits<" in drawn for port in ports.values())
        assert drawn.count("<rect") == 1 + len({name.partition("/")[0] for name in ports})


def test_results_are_kept_shown_and_refused_when_they_are_of_another_compile(
    tiny_package: Path, tmp_path: Path, meadowc: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "keep", KEEP)
    copy = Path(shutil.copytree(tiny_package, tmp_path / "my copy"))
    for prompt in ("8", "16"):
        ran = meadowc("bench", "llm", copy, "-p", prompt, "-n", "2", "-r", "1")
        assert ran.code == 0, ran.err
    reference = tiny_package.parents[1] / "tiny"
    ran = meadowc("eval", copy, "--windows", "1", "--window-tokens", "8", "--text", __file__, "--reference", reference)
    assert ran.code == 0, ran.err
    kept = results.read(load(copy))
    assert [row.what.split(" ")[0] for row in kept] == ["pp8", "tg2", "pp16", "tg2", "perplexity"]
    assert shlex.split(kept[2].command)[:3] == ["meadowc", "bench", "llm"] and "--prompts 16" in kept[2].command
    meadowc("bench", "llm", copy, "-p", "16", "-n", "2", "-r", "1")
    assert len(results.read(load(copy))) == 5  # the same command again takes its own place
    shown = page.build(load(copy), "t")[0]
    assert "pp16 on" in shown and "perplexity over" in shown and "Nothing was measured yet" not in shown
    file = copy / results.FILE
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in (".results.json.new", ".index.html.new"):
        (copy / "report" / name).symlink_to(mine)
    assert meadowc("report", copy).code == 0 and mine.read_text() == "mine"  # a link of a hostile package leads nowhere
    assert meadowc("bench", "llm", copy, "-p", "4", "-n", "1", "-r", "1").code == 0 and mine.read_text() == "mine"
    whole = json.loads(file.read_text())
    wrongs: tuple[Any, ...] = (
        {**whole, "digest": "0"},
        {**whole, "rows": [["a", "b"]]},
        {**whole, "rows": [["a\x1b[2J", "b", "c", "d", "e"]]},
        {**whole, "rows": 3},
        [],
    )
    for wrong in wrongs:
        file.write_text(json.dumps(wrong))
        assert results.read(load(copy)) == []
    file.write_text(json.dumps({**whole, "rows": [["<script>x</script>", "b", "c", "d", "e"]]}))
    assert "<script>x" not in page.build(load(copy), "t")[0]


def test_two_packages_stand_side_by_side(tiny_package: Path, grouped: Path, tmp_path: Path, meadowc: Any) -> None:
    made = meadowc("report", tiny_package, grouped, "-o", tmp_path / "both.html", "--json").json
    text = Path(made["page"]).read_text()
    assert "<h1>tiny and grouped</h1>" in text and text.count('class="diagram"') == 2 and "trace" not in made
    one, two = load(tiny_package).summary(), load(grouped).summary()
    for s in (one, two):
        assert f"{s['decode']['tokens_per_s']:,.2f}" in text
    ratio = two["decode"]["tokens_per_s"] / one["decode"]["tokens_per_s"]
    assert f">{ratio:.2f}</td>" in text
    assert "(the same)" in pair.build(load(tiny_package), load(tiny_package))


def test_the_trace_has_every_step_in_order(tiny_package: Path) -> None:
    package = load(tiny_package)
    _, trace = page.build(package, "trace.json")
    steps = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] == 0 and e["pid"] == 1]
    assert len(steps) == len(package.steps("decode"))
    for a, b in itertools.pairwise(steps):
        assert a["ts"] + a["dur"] == pytest.approx(b["ts"], abs=0.01)
    phases = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] > 0 and e["pid"] == 1]
    assert sum(e["dur"] for e in phases) <= sum(e["dur"] for e in steps) * 1.001


def test_the_command_writes_page_and_trace_and_spares_other_files(
    tiny_package: Path, tmp_path: Path, meadowc: Any
) -> None:
    made = meadowc("report", tiny_package, "-o", tmp_path / "a.html", "--json").json
    assert Path(made["page"]).read_text().startswith("<!doctype html>")
    assert json.loads(Path(made["trace"]).read_text())["traceEvents"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.trace.json"]
    other = tmp_path / "notes.html"
    other.write_text("mine")
    refused = meadowc("report", tiny_package, "-o", other)
    assert refused.code == 2 and "is no report" in refused.err and other.read_text() == "mine"
    assert meadowc("report", tmp_path).code == 2
    assert meadowc("report", tiny_package, "-o", tmp_path / "none" / "a.html").code == 2


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    if BROWSER is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


def shown(browser: Any, file: Path, width: int, scheme: str) -> tuple[Any, list[str]]:
    """The page once its charts are drawn, and what it asked for or complained of."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    told: list[str] = []
    page.on("request", lambda r: told.append(r.url) if not r.url.startswith(("data:", file.as_uri())) else None)
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-drawn]")
    page.wait_for_function("[...document.querySelectorAll('.plot')].every((p) => p.querySelector('svg.main-svg'))")
    return page, told


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_shows_in_a_browser(width: int, scheme: str, browser: Any, text: str, tmp_path: Path) -> None:
    """All is drawn in the scheme's own colours, nothing is cut off or too small to read, and nothing is asked for."""
    file = tmp_path / "page.html"
    file.write_text(text)
    page, told = shown(browser, file, width, scheme)
    assert told == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = {"dark": "rgb(19, 23, 20)", "light": "rgb(245, 246, 243)"}[scheme]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    green = {"dark": "rgb(99, 185, 139)", "light": "rgb(44, 110, 73)"}[scheme]
    bars = page.evaluate("[...document.querySelectorAll('.plot .bars path')].map((p) => getComputedStyle(p).fill)")
    assert green in bars
    sizes = page.evaluate(
        "[...document.querySelectorAll('.plot text, .diagram text')].filter((t) => t.textContent.trim())"
        ".map((t) => parseFloat(getComputedStyle(t).fontSize) * (t.closest('.diagram')"
        " ? t.closest('svg').clientWidth / 460 : 1))"
    )
    assert sizes and min(sizes) > (6.5 if width == 390 else 8)
    page.close()


def test_numbers_are_told_under_the_pointer_and_tables_sort_and_filter(browser: Any, text: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(text)
    page, _ = shown(browser, file, 1280, "light")
    bars = page.locator('[data-figure="bytes"] .bars path').first
    bars.scroll_into_view_if_needed()
    bars.hover(force=True)
    page.wait_for_selector('[data-figure="bytes"] .hovertext')
    assert "MB per token" in page.text_content('[data-figure="bytes"] .hovertext')
    bits = "[...document.querySelectorAll('#matrices-table tbody tr:not([hidden])')].map((r) => Number(r.cells[7].textContent))"
    page.locator("#matrices-table th button", has_text="bits").click()
    down = page.evaluate(bits)
    page.locator("#matrices-table th button", has_text="bits").click()
    up = page.evaluate(bits)
    assert down == sorted(down, reverse=True) and up == sorted(up) and len(up) > 20
    page.fill('input[data-filters="matrices-table"]', "layer 2 down")
    names = page.evaluate(
        "[...document.querySelectorAll('#matrices-table tbody tr:not([hidden])')].map((r) => r.cells[0].textContent)"
    )
    assert names == ["blk.2.ffn_down.weight"] and page.inner_text('[data-counts="matrices-table"]').startswith("1 of")
    page.close()


def test_a_change_of_the_scheme_draws_the_charts_anew(
    browser: Any, tiny_package: Path, grouped: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pair.html"
    file.write_text(pair.build(load(tiny_package), load(grouped)))
    page, told = shown(browser, file, 390, "light")
    ink = "getComputedStyle(document.querySelector('.plot text.ytick, .plot .ytick text')).fill"
    before = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{ink} !== {json.dumps(before)}")
    assert told == [] and page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
