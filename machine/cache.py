# SPDX-License-Identifier: Apache-2.0
"""The user's cache: downloads, built simulations, the history of chats.  All of it can be made again."""

from __future__ import annotations

import os
from pathlib import Path

PARTS = {
    "files": "downloads of meadowc fetch",
    "csim": "C simulations of designs",
    "cosim": "co-simulations of designs",
    "verilated": "pacq_gemv in Verilator",
    "chat_history": "lines typed in meadowc chat",
}
"""What lies in it."""


def cache_folder() -> Path:
    """$MEADOW_CACHE, else $XDG_CACHE_HOME/meadow, else ~/.cache/meadow."""
    if os.environ.get("MEADOW_CACHE"):
        return Path(os.environ["MEADOW_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meadow"
