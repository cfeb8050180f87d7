"""A compiled model of replicas of vLLM behind a router; what `halftone replay` runs policies on."""
