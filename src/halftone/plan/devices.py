"""The device table: what a GPU offers, read from `devices.yaml` beside this file.

`halftone plan --gpu NAME` asks `find_device(NAME)` and hands the row to `fit`; an endpoint, which
knows its GPU, asks `devices_like`. This module must not look at the machine it runs on: a plan is
made anywhere, for any device.
"""

from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, Field

from halftone.spec.errors import RefusedInput
from halftone.spec.formats import Format
from halftone.spec.names import Reason

_TABLE: Final = "devices.yaml"


class Kernel(StrEnum):
    """How a device computes with a format."""

    Native = "Native"  # in the format itself
    Marlin = "Marlin"  # weights unpacked to 16 bits inside the kernel, activations at 16 bits


class Device(BaseModel):
    """One kind of GPU, one of its `gpusPerNode` in a machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    memoryMiB: int = Field(gt=0)
    computeCapability: str = Field(pattern=r"^\d+\.\d$")
    gpusPerNode: int = Field(gt=0)
    memoryPercent: int = Field(default=92, gt=0, le=100)
    kernels: dict[Format, Kernel]
    note: str | None = None

    @property
    def memory_bytes(self) -> int:
        """The whole memory, used or not."""
        return self.memoryMiB * 2**20


def find_device(name: str) -> Device:
    """The row called `name`, in any case and with any of space, `-` and `_` between words.

    Raises RefusedInput(UnknownDevice) with the names of all.
    """
    for row in devices():
        if _plain(row.name) == _plain(name):
            return row
    known = ", ".join(row.name for row in devices())
    raise RefusedInput(
        Reason.UnknownDevice,
        name,
        f"`--gpu` '{name}' is not in the device table; use one of {known}.",
    )


@cache
def devices() -> tuple[Device, ...]:
    """Every row, in the table's order."""
    table = yaml.safe_load(files("halftone.plan").joinpath(_TABLE).read_text("utf-8"))
    return tuple(
        Device.model_validate(
            {key: value for key, value in row.items() if key != "generation"}
            | {"kernels": table["generations"][row["generation"]]}
        )
        for row in table["devices"]
    )


def devices_like(capability: str) -> tuple[Device, ...]:
    """The rows with the CUDA compute capability `capability`, such as `9.0`; else with its major.

    Empty for a generation that the table does not have.
    """
    exact = tuple(row for row in devices() if row.computeCapability == capability)
    major = capability.partition(".")[0]
    return exact or tuple(
        row for row in devices() if row.computeCapability.partition(".")[0] == major
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
