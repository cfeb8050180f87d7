"""What Prometheus answers, as samples: the only place that knows its JSON.

Called by `prometheus` with the body of an answer, and by tests with recorded ones. No HTTP here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class UnusableAnswer(ValueError):
    """An answer that is none, or only a part of one; the message is a sentence's end."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series and its value at the moment of the query."""

    labels: Mapping[str, str]
    value: float


def vector(body: bytes | str) -> tuple[Sample, ...]:
    """The samples of an instant query. Raises UnusableAnswer."""
    data = whole(body)
    try:
        return tuple(_sample(each) for each in _result(data))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise UnusableAnswer("answers with something other than a vector") from None


def whole(body: bytes | str) -> Any:
    """The data of any answer. Raises UnusableAnswer.

    A warning counts as a refusal: what stands in front of several Prometheus servers warns when it
    could not ask all of them, and answers with the rest.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise UnusableAnswer("does not answer in JSON; is it Prometheus?") from None
    if not isinstance(answer, dict) or answer.get("status") != "success":
        raise UnusableAnswer(f"refuses the query: {refusal(answer)}")
    if answer.get("warnings"):
        warned = "; ".join(str(warning) for warning in answer["warnings"])
        raise UnusableAnswer(f"warns that its answer may not be whole: {warned}")
    return answer.get("data")


def refusal(answer: Any) -> str:
    """Why Prometheus refused, in its words as far as there are any."""
    if isinstance(answer, dict) and answer.get("error"):
        return f"{answer.get('errorType', 'error')}: {answer['error']}"
    return "it does not say why"


def _result(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if data["resultType"] != "vector":
        raise ValueError
    result: list[Mapping[str, Any]] = data["result"]
    return result


def _sample(told: Mapping[str, Any]) -> Sample:
    labels = {str(name): str(value) for name, value in told["metric"].items()}
    _, value = told["value"]
    return Sample(labels, float(value))
