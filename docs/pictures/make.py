# SPDX-License-Identifier: Apache-2.0
"""Make the pictures of the documentation anew: `make pictures`.  What they show is what the commands print, on build/smollm2.

terminal.svg  commands and their output, appearing line by line
report.png    the beginning of the report page, in headless Chromium
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
COLUMNS = 104
COMMANDS = (
    ("meadowc compile models/smollm2-int8 --board zcu102 -o build/smollm2", r"^(build|  for|  the|decode:|prefill: \d|weights:|next:)"),
    ('meadowc run build/smollm2 -p "What is the capital of France? Answer in one sentence."', r"."),
    ("meadowc verify build/smollm2 --limit 2 --tokens 6", r"^(bit-exact|same tokens)"),
)
"""Commands, and which lines of what they print are shown."""
SECONDS = 0.35
"""Between two lines."""


def terminal() -> str:
    """The cast as SVG."""
    console = Console(record=True, width=COLUMNS, file=Path("/dev/null").open("w"))  # noqa: SIM115 - until the end
    shutil.rmtree(ROOT / "build" / "smollm2", ignore_errors=True)
    for command, shown in COMMANDS:
        console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
        words = [str(Path(sys.executable).parent / "meadowc"), *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        lines = (done.stdout + (done.stderr if " run " in command else "")).splitlines()
        for line in [line for line in lines if re.search(shown, line)]:
            console.print(Text(line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"), soft_wrap=True)
    made = console.export_svg(title="meadow", font_aspect_ratio=0.6)
    return moving(made)


def moving(svg: str) -> str:
    """Lines that appear one after another."""
    svg = re.sub(r'(<text class="[^"]*-r\d+" x="[^"]*" y="[^"]*" textLength="[^"]*") clip-path="url\(#(?=([\w-]+)-line-(\d+))[\w-]+\)"',
                 lambda m: f'{m[1]} clip-path="url(#{m[2]}-line-{m[3]})" style="animation-delay: {SECONDS * int(m[3]):.2f}s"', svg)  # fmt: skip
    style = "@keyframes appear { from { opacity: 0 } to { opacity: 1 } } text[style] { animation: appear .01s both }"
    style += " @media (prefers-reduced-motion: reduce) { text[style] { animation: none } }"
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)  # a picture fetches nothing
    return svg.replace("</style>", f"{style}</style>", 1)


def report(target: Path) -> None:
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as work, sync_playwright() as started:
        page = Path(work) / "page.html"
        subprocess.run([Path(sys.executable).parent / "meadowc", "report", ROOT / "build" / "smollm2", "-o", page], check=True, capture_output=True)
        made = started.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        view = made.new_page(viewport={"width": 1180, "height": 1180}, color_scheme="light")
        view.goto(page.as_uri())
        view.wait_for_selector("html[data-drawn]")
        view.wait_for_timeout(500)
        view.screenshot(path=target)
        made.close()


if __name__ == "__main__":
    (HERE / "terminal.svg").write_text(terminal())
    report(HERE / "report.png")
