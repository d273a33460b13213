# SPDX-License-Identifier: Apache-2.0
"""What compiler, board and hardware agree on: types, designs, instructions, arithmetic, storage, packages.  Needs numpy alone."""
