"""Prometheus as far as range queries go: it answers with the series that a test says.

Called by unit tests of histories, for answers that take a real Prometheus hours to have, or that
none gives. It understands no PromQL: a query is looked up by a part of it.

    with RangeQueries({"request_success": {"pocket": [0, 3, 5]}}) as prometheus:
        read_history(prometheus.origin, 120)
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.doubles.loopback import LoopbackHandler, LoopbackServer

Series = Mapping[str, Sequence[float | None]]


class RangeQueries(LoopbackServer):
    """Answers with the first of `series` whose key is in the query: values by `model_name`, one a
    point, None where there is none. `status` and `body` are said in place of that. `asked` has the
    parameters of every query, `tokens` what stood in `Authorization`.
    """

    def __init__(
        self, series: Mapping[str, Series], status: int = 200, body: bytes | None = None
    ) -> None:
        super().__init__(_Handler)
        self.series = series
        self.status = status
        self.body = body
        self.asked: list[dict[str, str]] = []
        self.tokens: list[str | None] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def answer(self, asked: Mapping[str, str]) -> bytes:
        """The body for these parameters."""
        if self.body is not None:
            return self.body
        found = next((rows for part, rows in self.series.items() if part in asked["query"]), {})
        start, step = float(asked["start"]), float(asked["step"])
        result: list[dict[str, Any]] = [
            {
                "metric": {"model_name": model},
                "values": [
                    [start + place * step, str(value)]
                    for place, value in enumerate(values)
                    if value is not None
                ],
            }
            for model, values in found.items()
        ]
        return json.dumps(
            {"status": "success", "data": {"resultType": "matrix", "result": result}}
        ).encode()


class _Handler(LoopbackHandler):
    server: RangeQueries

    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.server.asked.append({"path": url.path, **asked})
        self.server.tokens.append(self.headers.get("Authorization"))
        body = self.server.answer(asked)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
