"""Measuring an endpoint: load from vLLM's own benchmark, a table, ratios, and a capacity card.

`engine_facts` runs in a replica and `load_process` in a process of the environment that has vLLM;
all else runs anywhere.
"""
