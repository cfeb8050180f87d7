"""From an endpoint, its checkpoint and the device to vLLM's arguments, or a refusal.

Pure but for `device`, which looks at the machine, and the reading of headers.
"""
