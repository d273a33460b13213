# SPDX-License-Identifier: Apache-2.0
"""Is a device what its package says: self-test, and comparison layer by layer."""
