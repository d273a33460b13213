# SPDX-License-Identifier: Apache-2.0
"""`python -m meadow` is `meadowc`."""

from meadow.cli.main import main

main()
