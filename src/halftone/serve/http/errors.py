"""Error bodies and error events as OpenAI's clients read them.

Called by the middleware and by whoever answers in a replica's place. Pure.
"""

import json
from dataclasses import dataclass, field
from typing import Final

Header = tuple[bytes, bytes]

_JSON: Final = (b"content-type", b"application/json")
# OpenAI's clients try again after 408, 409, 429 and 5xx, unless they are told not to.
_NO_RETRY: Final = (b"x-should-retry", b"false")


@dataclass(frozen=True)
class ApiError:
    """One refusal: an HTTP status, and the four fields of an OpenAI error.

    `retry_after_s` adds the header of that name; `final` asks clients not to try again.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    parameter: str | None = None
    retry_after_s: int | None = None
    final: bool = field(default=False)

    def body(self) -> bytes:
        """The JSON document."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.parameter,
            "code": self.code,
        }
        return json.dumps({"error": error}).encode()

    def headers(self) -> list[Header]:
        """All headers of an answer that is this error and nothing else."""
        headers = [_JSON, (b"content-length", str(len(self.body())).encode())]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.final:
            headers.append(_NO_RETRY)
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers

    def event(self) -> bytes:
        """The last events of a stream that cannot go on."""
        return b"data: " + self.body() + b"\n\ndata: [DONE]\n\n"


UNAUTHORISED: Final = ApiError(
    401,
    "A valid API key is needed, in the header `Authorization: Bearer KEY`.",
    code="invalid_api_key",
)
BROKEN: Final = ApiError(
    500,
    "The answer broke off inside the server; ask again.",
    kind="server_error",
    code="stream_broken",
)


def not_found(method: str, path: str) -> ApiError:
    """A path that this endpoint does not serve."""
    return ApiError(404, f"There is no `{method} {path}` here.", code="not_found")


def overloaded(others: int, limit: int, answers: int, retry_after_s: int) -> ApiError:
    """`answers` more do not fit beside `others` that run or wait in the replica that was asked."""
    more = "" if answers == 1 else f", and this request wants {answers}"
    return ApiError(
        429,
        f"{others} of at most {limit} answers run or wait already{more}; try again in "
        f"{retry_after_s} s.",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=retry_after_s,
    )


def too_long(limit_s: float) -> ApiError:
    """An answer that took more than the endpoint's `maxRequestSeconds`."""
    return ApiError(
        504,
        f"The answer took longer than the {limit_s:g} s that this endpoint allows; ask for fewer "
        "tokens.",
        kind="server_error",
        code="request_timeout",
        final=True,
    )


def too_many(limit: int, answers: int) -> ApiError:
    """One request for more answers than a replica ever takes on."""
    return ApiError(
        400,
        f"The request wants {answers} answers, `n` for each prompt, and at most {limit} may run or "
        "wait here; ask for fewer.",
        code="too_many_answers",
        parameter="n",
    )


def too_large(limit: int) -> ApiError:
    """A body of more than `limit` bytes."""
    return ApiError(413, f"The request has more than {limit:,} bytes.", code="request_too_large")


def unknown_field(name: str, path: str, nearest: str | None) -> ApiError:
    """A top-level field that the API does not know: a typing error must not pass in silence."""
    hint = f"; did you mean `{nearest}`?" if nearest else "."
    return ApiError(
        400,
        f"`{name}` is no parameter of `{path}`{hint}",
        code="unknown_parameter",
        parameter=name,
    )
