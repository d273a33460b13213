# SPDX-License-Identifier: Apache-2.0
"""Benchmarks as functions: each number with its kind and its bound."""
