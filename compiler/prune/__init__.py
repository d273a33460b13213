# SPDX-License-Identifier: Apache-2.0
"""Heads, channels and weights that a model can do without: which they are, the graph without them, and what is made good."""
