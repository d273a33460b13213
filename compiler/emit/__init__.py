# SPDX-License-Identifier: Apache-2.0
"""The texts and bytes of a package."""
