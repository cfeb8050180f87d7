"""Judgement: what was observed of a QuantizationJob becomes its status and what to do about it.

Pure: no clock, no network, no randomness; `operators` reads and writes, and this room decides.

    decision = reconcile(observed, settings)
"""
