"""Whether what rules, dashboards and the scaler need is still exported, and whether rules run.

`prometheus` or `expositions` look at what is there, `judging` holds it to the contract of
`halftone.telemetry`, `rules` does so with what Prometheus says of rules, and `fixes` says the way
out. Called by `halftone doctor`.
"""
