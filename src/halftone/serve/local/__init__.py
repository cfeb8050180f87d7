"""An endpoint on this machine: Ray processes of our own, which go when we go, whatever ends us.

Runs in the environment that has ray and vllm. Other Rays on the machine are never touched.
"""
