"""The tests, in tiers: unit (pure), contract (what must agree), integration (real peers)."""
