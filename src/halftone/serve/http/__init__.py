"""What clients see: one ASGI middleware before vLLM's own HTTP application, and error bodies.

Nothing here imports ray or vllm; the replica gives what it knows of them.
"""
