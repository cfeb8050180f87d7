"""What a replica computes with, as far as it decides how vLLM is started.

`this_device` looks, in an environment that has vLLM; all else takes `DeviceFacts` from anywhere, so
a pair of artifact and device can be judged on a machine that has neither.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason
from halftone.spec.serving import Accelerator

_ENGINE: Final = "vllm"
_CPU_NAME: Final = "CPU"


@dataclass(frozen=True)
class DeviceFacts:
    """One machine's accelerators, all alike.

    `name` is the vendor's. `capability` is a GPU's CUDA compute capability, such as `9.0`, None on
    a CPU. `count` are the GPUs of this machine, 1 on a CPU. `engine` is `vllm VERSION`.
    """

    accelerator: Accelerator
    name: str
    capability: str | None
    count: int
    engine: str


def this_device(accelerator: Accelerator) -> DeviceFacts:
    """The machine that this process runs on.

    A replica's own process sees no GPU under Ray, which gives them to its workers, so the driver is
    asked and not CUDA. Raises EnvironmentFault where vLLM or the wanted GPU is not there.
    """
    engine = f"{_ENGINE} {_engine_version()}"
    if accelerator is Accelerator.CPU:
        return DeviceFacts(accelerator, _CPU_NAME, None, 1, engine)
    name, capability, count = _gpu()
    return DeviceFacts(accelerator, name, capability, count, engine)


def _engine_version() -> str:
    try:
        return version(_ENGINE)
    except PackageNotFoundError as error:
        raise EnvironmentFault(
            Reason.MissingDependency,
            _ENGINE,
            "vLLM is not installed beside `halftone.serve`; use the image `halftone-endpoint`, or "
            "the environment that `make .venvs/serve/ready` builds.",
        ) from error


def _gpu() -> tuple[str, str, int]:
    """(name, capability, count) of the machine's GPUs, from NVIDIA's management library."""
    from vllm.third_party import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _no_gpu(str(error)) from error
    try:
        count: int = pynvml.nvmlDeviceGetCount()
        if not count:
            raise _no_gpu("the driver knows none")
        found = {_described(pynvml, number) for number in range(count)}
    finally:
        pynvml.nvmlShutdown()
    if len(found) > 1:
        told = ", ".join(sorted(name for name, _ in found))
        raise EnvironmentFault(
            Reason.NotSupported,
            "accelerator",
            f"This machine has GPUs of several kinds ({told}), and a replica's share of them could "
            "be any; give the pod one kind only.",
        )
    name, capability = found.pop()
    return name, capability, count


def _described(pynvml: Any, number: int) -> tuple[str, str]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return name if isinstance(name, str) else name.decode(), f"{major}.{minor}"


def _no_gpu(why: str) -> EnvironmentFault:
    return EnvironmentFault(
        Reason.NotSupported,
        "accelerator",
        f"`accelerator: GPU` is wanted and no GPU can be used here ({why}); give the pod one, or "
        "set `accelerator: CPU` for development.",
    )
