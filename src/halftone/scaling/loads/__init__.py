"""Loads: requests with their times and lengths, from traces, generators or one's own history."""
