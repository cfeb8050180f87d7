"""How far each layer's output moves: the half of a sweep that runs the model.

`layers.measure_layers` is the way in. Everything here runs in the environment that has
llm-compressor, and stands on `halftone.quantize.calibration`, which streams the model and the data.
"""
