# SPDX-License-Identifier: Apache-2.0
"""A server of its own for the tests: `meadowc serve` in a process, as a user starts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served

for name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'meadow-fpga[serve]'")


@pytest.fixture(scope="session")
def served(talkative: Path) -> Iterator[Served]:
    made = Served(talkative)
    yield made
    made.close()


@pytest.fixture
def client(served: Served) -> Any:
    openai = pytest.importorskip("openai", reason="no openai: pip install openai")
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)
