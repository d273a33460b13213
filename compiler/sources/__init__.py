# SPDX-License-Identifier: Apache-2.0
"""Files become graphs: one folder per file format."""
