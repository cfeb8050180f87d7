"""From one checkpoint layout to the other: compressed-tensors' and ModelOpt's.

Codes and block scales stay the bytes that they are. What differs is how scales are called, stored
and meant (divisors or multipliers), and how the configuration says which modules have them.
`converting` carries out, `source` reads, `steps` decides tensor by tensor, `settling` what the
numbers of scales decide, `configuration` writes the blocks. No weight is decoded here, and nothing
is proven of the result.
"""
