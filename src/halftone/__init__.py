"""Halftone quantizes language models, proves that they are still good, and serves them.

This module exists to hold the version, in its single place: the build and `halftone --version`
read it here. It imports nothing, so that `import halftone` costs nothing.
"""

__version__ = "0.1.0"
