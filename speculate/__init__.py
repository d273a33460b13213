# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding without I/O: who proposes tokens, how many, and how both sides of a link agree on what was said."""
