# SPDX-License-Identifier: Apache-2.0
"""A server of its own for the tests: `meadowc serve` in a process, as a user starts it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served

for name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'meadow-fpga[serve]'")

TEMPLATE = "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}\n{% endfor %}[a]"


@pytest.fixture(scope="session")
def talkative(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny package with a chat template, which is not among the files that are verified."""
    copy = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(tiny_package, copy)
    (copy / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE)
    return copy


@pytest.fixture(scope="session")
def served(talkative: Path) -> Iterator[Served]:
    made = Served(talkative)
    yield made
    made.close()


@pytest.fixture
def client(served: Served) -> Any:
    openai = pytest.importorskip("openai", reason="no openai: pip install openai")
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)
