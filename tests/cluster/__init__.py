"""A real Kubernetes on this machine, for the tests that need one."""
