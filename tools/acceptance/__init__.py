"""The whole way on real hardware: what `make accept-hardware` does, and the report that it leaves.

    python -m tools.acceptance --dry-run              print every step, do nothing
    python -m tools.acceptance --output accepted      example 07's S0, on this machine's GPUs
    python -m tools.acceptance --job examples/01-pocket-model.yaml
    python -m tools.acceptance --source hf://org/model --recipe nvfp4a16

`orders` says the steps, each a command line that a user could type; `carrying` carries them out;
`asking` has what each serving mode is asked and judges the answer; `report` makes one folder of it.
It runs on what the endpoint's image has: the standard library, PyYAML and `halftone`. It must not
judge what a command of `halftone` judges itself: an exit status is taken as it is.
"""
