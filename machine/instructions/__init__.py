# SPDX-License-Identifier: Apache-2.0
"""The instructions, one file each: fields, numpy meaning, memory, bytes, loops and price.  table.py has them all by opcode."""
