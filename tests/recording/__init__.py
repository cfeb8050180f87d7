"""Records what real servers export: `make record-metrics` writes `tests/golden/metrics`.

`__main__` is the program; `native`, `through_ray` and `operating` start what is recorded, `load`
keeps it busy, `normal` takes the machine out of what it wrote, and `files` says where it lies.
"""
