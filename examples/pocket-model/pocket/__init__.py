"""Parts of the pocket model's training, imported by `train.py`, `score.py` and a test.

No part of Halftone imports them.
"""
