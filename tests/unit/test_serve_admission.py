"""We test these aspects of how many answers a replica takes on:

- how many a request wants: `n` for each of its prompts, as vLLM reads both;
- a refused client is told to come again the later, the more wait.
"""

from contextlib import ExitStack
from typing import Any

import pytest

from halftone.serve.http.admission import Admission, answers_wanted


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": "3"}, 3),
        ({"n": 3.0}, 3),
        ({"n": None}, 1),
        ({"n": 0}, 1),
        ({"n": -5}, 1),
        ({"n": "many"}, 1),
        ({"n": [4]}, 1),
        ({"n": float("inf")}, 1),
        ({"prompt": "one"}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": []}, 1),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [[1, 2], [3], [4]]}, 3),
        ({"prompt": "", "prompt_embeds": "AA=="}, 1),
        ({"prompt_embeds": ["AA==", "AA=="], "n": 3}, 6),
        ({"prompt": ["a", "b"], "prompt_embeds": ["AA=="]}, 3),
    ],
)
def test_the_answers_that_a_request_wants(request_: dict[str, Any], answers: int) -> None:
    assert answers_wanted(request_) == answers


def test_retry_after_grows_with_what_waits() -> None:
    admission = Admission(2, 6)
    told = []
    with ExitStack() as requests:
        for _ in range(8):
            told.append((admission.is_full, admission.retry_after_s))
            requests.enter_context(admission.admitted())
        full = admission.is_full
    # An answer took a second so far; two run at a time.
    assert told[-1] == (False, 2)
    assert [seconds for _, seconds in told] == sorted(seconds for _, seconds in told)
    assert told[0][1] == 1
    assert (full, admission.in_flight) == (True, 0)
