"""Two endpoints beside each other: the same prompts to both, and what the answers allow to say."""
