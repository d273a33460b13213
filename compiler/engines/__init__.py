# SPDX-License-Identifier: Apache-2.0
"""What the compiler knows of each engine besides what the machine says of it: storing, cutting and sizing its matrices."""
