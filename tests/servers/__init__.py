"""Real servers that tests start on loopback; `make tools` builds them. Doubles are in `doubles`."""
