"""Documents of strangers, changed at random: `make fuzz`, and what it once found in every `make
test`.
"""
