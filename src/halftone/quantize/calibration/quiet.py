"""Keeps the libraries that measure from talking on the user's terminal.

Called by `calibrating` and a sweep before they import them: llm-compressor and transformers print
logs, bars and warnings that say nothing to whoever calibrates. Errors are raised, and raised they
stay.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_TALKERS: Final = ("accelerate", "datasets", "torch", "torch.fx._symbolic_trace", "transformers")


@contextmanager
def quiet() -> Iterator[None]:
    """No log below an error, no bar and no Python warning of a library."""
    # Read when the libraries are first imported.
    os.environ.setdefault("LLM_COMPRESSOR_LOG_DISABLED", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loggers = [logging.getLogger(name) for name in _TALKERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
