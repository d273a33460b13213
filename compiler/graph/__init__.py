# SPDX-License-Identifier: Apache-2.0
"""What is computed: a graph of few operations, its meaning in numpy, and the passes that rewrite it."""
