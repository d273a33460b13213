# SPDX-License-Identifier: Apache-2.0
"""A compiled package on disk: read with every bound checked."""
