# SPDX-License-Identifier: Apache-2.0
"""Sparse inputs of linear layers: thresholds below which an element is 0, so that a column of weights need not be fetched."""
