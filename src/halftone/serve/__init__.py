"""The endpoint: one artifact behind an OpenAI-compatible URL, by Ray Serve and vLLM.

Weights are fetched and verified before one is loaded; modes and formats become vLLM's arguments;
what comes too much is refused early; two endpoints are compared and an endpoint is measured.
Modules that import ray or vllm run in the environment that has them.
"""
