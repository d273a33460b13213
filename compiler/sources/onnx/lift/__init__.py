# SPDX-License-Identifier: Apache-2.0
"""How an ONNX graph of any exporter becomes the few nodes of a Graph: its operators are followed on symbolic values.

The graph is followed at a fixed number of cached and new tokens.  What does not depend on tokens or cache is computed: shapes,
masks, rotary tables, whatever their spelling.  What does is a form (form.py): which element of which value stands where, with
which factor.  So views cancel by index algebra, and a rotation, a gain or a mask is read from the numbers that are there.
"""
