"""L4, the gate to the outside: an artifact becomes visible whole, or not at all."""
