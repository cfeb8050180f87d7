"""Replicas that follow KV-cache pressure, and a replay that proves it first.

`policy` decides. `inputs` reads Prometheus for it, `ray_policy` and `acting` carry out what it
says, and `replay` runs it on a trace against `plant`, a model of replicas, beside `baselines`.
"""
