"""Published ways to scale, from their own rules, for the replay to compare with; and the limit."""
