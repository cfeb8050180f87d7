"""L4, measuring: what activations, keys and values reach on data, layer by layer.

`dataset` turns rows into model inputs, `calibrating` runs them through the model and writes the
statistics that the engine takes its scales from. What touches torch runs in the environment that
has llm-compressor; reading rows needs neither.
"""
