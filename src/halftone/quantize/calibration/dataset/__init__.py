"""Calibration data: from the files that a job names to the inputs of a model.

`preparing` is what others call, and `limits` what may be asked before any data are read. Reading
rows (`row_index` and below) needs no torch; `coders` and `samples`, which make inputs of them, run
in the environment that has transformers. Nothing here runs a model.
"""
