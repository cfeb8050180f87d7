"""L4, the hands: kernels and the streaming engine that carries out a plan.

Weights pass through once per pass in tiles, never whole; outputs become visible in one rename.
"""
