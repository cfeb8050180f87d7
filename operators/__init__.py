"""Operators: what runs in a cluster and carries out what `halftone.control` decides."""
