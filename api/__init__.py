# SPDX-License-Identifier: Apache-2.0
"""meadow: language models on FPGA edge boards.  These are the names for Python; each is loaded when it is used.

meadow.export(model, tokenizer, folder)     a PyTorch model as ONNX with a cache (needs the extra `torch`)
meadow.compile(source, board)               a package of a model, as `meadowc compile` makes it
meadow.Session(package, device)             a compiled package on a device
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meadow.compiled import Compiled as Compiled
    from meadow.compiled import compile as compile
    from meadow.compiler.sources.torch.export import export as export
    from meadow.runtime.session import Session as Session

WHERE = {
    "Compiled": "meadow.compiled",
    "compile": "meadow.compiled",
    "export": "meadow.compiler.sources.torch.export",
    "Session": "meadow.runtime.session",
}
__all__ = ["Compiled", "Session", "__version__", "compile", "export"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from meadow.machine import distribution

        return distribution.version()
    if name in WHERE:
        return getattr(importlib.import_module(WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
