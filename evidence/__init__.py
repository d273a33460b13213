# SPDX-License-Identifier: Apache-2.0
"""What proves and what measures: the ladder and the benchmarks, as functions."""
