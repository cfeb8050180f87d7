"""Activations on disk: what one layer leaves for the next.

Called by `running`, and by a sweep for outputs. Only tensors and plain containers are kept, so that
reading them back can run no code.
"""

import hashlib
import io
from collections import UserDict
from pathlib import Path
from typing import Any, Final

import torch

from halftone.quantize.calibration.model import refuse_model

_PLAIN: Final = (bool, int, float, str, torch.dtype, torch.device, torch.Size)


def save_value(value: Any, path: Path, name: str) -> None:
    """Write `value` to `path`. Raises OSError, and RefusedInput for what is not plain."""
    path.write_bytes(packed(value, name))


def save_shared(value: Any, folder: Path, name: str) -> str:
    """Write `value` to `folder` unless its equal is there; the name of its file. Raises as above.

    Before the first layer most values depend on the length of a sample alone: masks, which grow
    with its square, and rotations.
    """
    data = packed(value, name)
    path = folder / f"{hashlib.sha256(data).hexdigest()}.pt"
    if not path.exists():
        path.write_bytes(data)
    return path.name


def packed(value: Any, name: str) -> memoryview:
    """`value` as `load_value` reads it; equal ones give equal bytes.

    Made in memory: torch's writer makes a RuntimeError of whatever a file raises (2.13), and a full
    disk would not be known as one.
    """
    held = io.BytesIO()
    torch.save(_plain(value, name), held)
    return held.getbuffer()


def load_value(path: Path, device: Any) -> Any:
    """What `save_value` wrote, its tensors on `device`. Raises OSError."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise OSError(None, f"`{path.name}` is damaged: remove `{path.parent.parent}`") from error


def _plain(value: Any, name: str) -> Any:
    """`value` on the CPU, each tensor with memory of its own and no more than it needs."""
    if isinstance(value, torch.Tensor):
        found = value.detach().cpu().contiguous()
        whole = found.untyped_storage().nbytes() == found.nbytes
        return found if whole else found.clone()
    if value is None or isinstance(value, _PLAIN):
        return value
    if type(value) in {list, tuple}:
        return type(value)(_plain(one, name) for one in value)
    if type(value) not in {dict, UserDict}:
        kind = type(value).__name__
        refuse_model(
            name,
            f"Between two layers the model hands on a {kind} (`{name}`), which cannot be kept on "
            "disk; choose a data-free recipe such as 'nvfp4a16'.",
        )
    return {key: _plain(one, name) for key, one in value.items()}
