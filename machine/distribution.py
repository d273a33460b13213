# SPDX-License-Identifier: Apache-2.0
"""The name under which meadow is installed, which is not that of its Python package: PyPI has another project called meadow."""

from __future__ import annotations

from importlib import metadata

NAME = "meadow-fpga"


def version() -> str:
    """Of what is installed."""
    return metadata.version(NAME)
