"""The tests, in tiers: unit (pure), contract (what must agree with what), integration (real peers)."""
