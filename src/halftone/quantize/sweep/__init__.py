"""Which precision list gives the best quality under a budget: measured, priced, and proposed.

`sweeping.sweep` is the way in, called by `halftone sweep`. Nothing here is ever applied: the result
is a document, a recipe file and a plot. Only `measuring` needs torch; it runs in a process of its
own, in the environment that has llm-compressor.
"""
