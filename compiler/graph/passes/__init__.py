# SPDX-License-Identifier: Apache-2.0
"""Passes: one file each, one function Graph -> Graph.

The contract: a pass may assume that the graph checks, and must return one that checks and evaluates to the same
logits.  PASSES is the order in which rewrite.py runs them, with the reason beside each line.
"""

from meadow.compiler.graph.passes.fold_factors import fold_factors
from meadow.compiler.graph.passes.fuse_glu import fuse_glu
from meadow.compiler.graph.passes.one_residual import one_residual
from meadow.compiler.graph.passes.turn_halves import turn_halves

PASSES = (
    one_residual,  # the engine keeps one residual, and adds to it in place
    fold_factors,  # the engine multiplies a sum once, by the scales
    turn_halves,  # the engine turns whole heads by halves
    fuse_glu,  # the engine multiplies silu(gate) with up as they leave the array, so their rows must alternate
)
