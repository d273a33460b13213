# SPDX-License-Identifier: Apache-2.0
"""The written arithmetic, one file per kind of activations: docs/arithmetic.md in numpy."""
