# SPDX-License-Identifier: Apache-2.0
"""How a matrix lies in memory: one file per way."""
