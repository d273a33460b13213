# SPDX-License-Identifier: Apache-2.0
"""How large the hardware is: what fits a board, and the search for the best that fits."""
