"""Dashboards of Grafana, as Python: `python -m tools.dashboards write|check`.

Called by `make generate` and `make verify`. `queries` has every expression and knows nothing of
panels; `endpoint`, `quantization` and `operator` are a dashboard each; `panels`, `variables`,
`links` and `boards` build on grafana-foundation-sdk, and nothing else imports it. `filling` reads
the files that were written, as a browser would send their queries.
"""
