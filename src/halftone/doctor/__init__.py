"""Whether what rules, dashboards and the scaler need is still exported.

`prometheus` or `expositions` look at what is there, `judging` holds it to the contract of
`halftone.telemetry`, and `fixes` says the way out. Called by `halftone doctor`.
"""
