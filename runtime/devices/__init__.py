# SPDX-License-Identifier: Apache-2.0
"""What runs a package: one file per device, behind one protocol."""
