"""Published ways to scale, from their own rules, for the replay to compare with; and the limit.

Each is a class that is called with a `Reading` every `interval_s` seconds and says how many
replicas there should be. `policies` makes one by its name. None knows the plant.
"""
