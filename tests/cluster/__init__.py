"""A real Kubernetes on this machine, and the tests that need one.

`python -m tests.cluster up DIR [--node --image TAR …]` starts one by hand, `down DIR` ends it.
"""
