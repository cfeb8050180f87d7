"""What can go wrong between us and a Kubeflow server, in three kinds.

Raised by `rest`; the operator waits at `Unreachable`, fails at `Refused`, and takes `NotFound` as
an answer.
"""


class KubeflowError(Exception):
    """`sentence` says what is wrong and what to do; it names no token."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class Unreachable(KubeflowError):
    """Nobody answers, or not as the server of pipelines, or it does not let us, or not now.

    `code` is the answer's, 0 if there was none; `message` has its own words. Asking again later
    may help: whoever runs the server mends it, no change of a job does. What was asked for may have
    been carried out.
    """

    def __init__(self, sentence: str, code: int = 0, message: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.message = message


class Refused(KubeflowError):
    """The server says no, with `code`; `message` has its own words. Asking again gives the same."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Kubeflow Pipelines refused this ({code}): {message}")
        self.code = code
        self.message = message


class NotFound(Refused):
    """There is no run of that id."""
