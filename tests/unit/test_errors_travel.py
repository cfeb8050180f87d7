"""Errors between processes.

We test these aspects:
- an error that was pickled, as Ray does, keeps its kind, reason, subject and sentence
"""

import pickle

import pytest

from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason


@pytest.mark.parametrize("kind", [RefusedInput, CheckFailed, EnvironmentFault])
def test_a_pickled_error_says_the_same(kind: type[HalftoneError]) -> None:
    error = kind(Reason.DigestDiffers, "model.safetensors", "'model.safetensors' was changed.")

    again = pickle.loads(pickle.dumps(error))

    assert type(again) is kind
    assert str(again) == error.message
    assert (again.reason, again.subject, again.message) == (
        error.reason,
        error.subject,
        error.message,
    )
