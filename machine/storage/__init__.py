# SPDX-License-Identifier: Apache-2.0
"""How a matrix is stored: one file per way."""
