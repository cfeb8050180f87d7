"""L2, what a checkpoint is on disk: safetensors headers, the index, `config.json`, architectures.

Everything here works on bytes that somebody else wrote and believes none of them. It reads through
`halftone.spec.files.FileSource` and knows nothing of the store behind it.
"""
