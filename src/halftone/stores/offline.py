"""Closes the Hub to this process and to those that it starts.

Called by an endpoint once its weights are verified: libraries read a name of the Hub in a settings
file as something to download, and nothing that came so would have been verified.
"""

import os
from typing import Final

_VARIABLE: Final = "HF_HUB_OFFLINE"


def close_hub() -> None:
    """From here on, huggingface_hub refuses every request, here and in processes started later.

    The library reads the variable once, when it is imported, which may be long ago.
    """
    os.environ[_VARIABLE] = "1"
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        return
    constants.HF_HUB_OFFLINE = True
