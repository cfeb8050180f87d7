"""A model in a process of its own, loaded by real vLLM, and what is asked of it.

`session` is our side; `worker` is the process, in the environment that has vLLM; the other modules
are measurements, each called in that process with the loaded model.
"""
