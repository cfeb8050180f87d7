"""The shipped recipes: data files, read through `halftone.spec.recipes`."""
