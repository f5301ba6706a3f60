"""Simulated swarms: a world of patches and volunteers, the production code that decides about them, and rival rules.

For operators who choose parameters (`autoresearch-coordinator simulate`) and for `tests/benchmarks/decisions.py`. The
world is invented, its sizes are in `world`; what decides (`verdict`, `trust`, `audit`, `planning`, `noise`) is the very
code that runs a swarm. Nothing here is imported by the coordinator itself.
"""
