# SPDX-License-Identifier: Apache-2.0
"""meadowc: the command line.  Each command is a file; main.py lists them and turns errors into exit codes."""
