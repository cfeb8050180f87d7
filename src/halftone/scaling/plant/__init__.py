"""A model of replicas of vLLM behind a router, compiled; what `halftone replay` runs a policy on."""
