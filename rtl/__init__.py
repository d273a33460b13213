# SPDX-License-Identifier: Apache-2.0
"""The Verilog engines, one module a file.  docs/rtl.md has their ports and timing; no Python code lives here."""
