# SPDX-License-Identifier: Apache-2.0
"""Damaged inputs of every kind, thrown at the commands that read them (`make fuzz`).

damage.py   how bytes, JSON and graphs are damaged
inputs.py   the kinds of input: what is made, and which command reads it
requests.py requests to the server
worker.py   the process that reads them, which may hang or die
run.py      the parent: count, time, memory, and what is kept of a failure
"""
