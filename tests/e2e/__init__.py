"""The whole way on one real cluster: `python -m tests.e2e`, by hand as root.

A program and no tests of pytest's: it tells one story, and each act needs those before.
"""
