"""L4, the proof: what a written checkpoint is worth, judged apart from the code that wrote it.

`halftone.validate.inspection` is the door. Nothing here imports the engine in `quantize`.
"""
