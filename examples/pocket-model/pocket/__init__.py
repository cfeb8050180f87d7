"""Parts of the pocket model's training, imported by `train.py` and by its tests; no part of Halftone imports them."""
