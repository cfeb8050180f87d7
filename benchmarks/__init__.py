"""Measurements against peers; each writes one JSON line, and `python -m benchmarks` the table.

Absolute times of a shared machine mean little, so every figure that has a peer is a ratio of two
runs that took turns. `docs/performance.md` quotes the table with its machine.
"""
