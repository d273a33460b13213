# SPDX-License-Identifier: Apache-2.0
"""The tiny model that `meadowc demo` shows, with its notice (NOTICE.md)."""
