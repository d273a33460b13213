# SPDX-License-Identifier: Apache-2.0
"""The runtime: a package on a device, and text out of it.

from meadow.runtime import Session
with Session("build/smollm2") as session:
    for piece in session.stream("The capital of France is"):
        print(piece, end="")
"""

from meadow.runtime.session import Session, Stats

__all__ = ["Session", "Stats"]
