"""L4, the proof: what a written checkpoint is worth, judged apart from the code that wrote it.

`halftone.validate.inspection` is the door for anyone's checkpoint, `halftone.validate.validating`
that for one of ours with its gates. Nothing here imports the engine in `quantize`.
"""
