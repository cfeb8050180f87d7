"""Documents of strangers, changed at random: by hand with `python -m tests.fuzz`. What was once
found is read in every `make test`.
"""
