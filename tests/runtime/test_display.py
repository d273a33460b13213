# SPDX-License-Identifier: Apache-2.0
"""What a Session shows and refuses, whatever its device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from meadow.machine.errors import UsageError
from meadow.runtime import Session

PROMPT = [1, 8, 15, 22, 29, 36, 43]


def test_two_conversations_on_one_session_do_not_mix_silently(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        first = session.stream("Hello", 8, raw=True)
        next(first)
        list(session.stream("Goodbye", 4, raw=True))
        with pytest.raises(UsageError, match="another conversation began"):
            list(first)
        with pytest.raises(UsageError, match="a list of numbers"):
            session.compare("csim")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="1 or more"):
            session.compare(layers=0)
    assert "CLOSED" in repr(session)
    with pytest.raises(UsageError, match="this Session is closed"):
        session.prefill(PROMPT)


def test_the_timeline_is_text_without_matplotlib(tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with Session(tiny_package) as session:
        text = session.plot_timeline("prefill")
    assert isinstance(text, str) and "modelled" in text and "####" in text


def test_uploads_are_silent_outside_of_notebooks(tiny_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    IPython = pytest.importorskip("IPython")  # which pynq imports

    assert IPython.get_ipython() is None
    with Session(tiny_package):
        pass
    assert capsys.readouterr() == ("", "")
