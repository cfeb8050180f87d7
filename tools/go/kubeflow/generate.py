"""Writes Go for the messages of Kubeflow, out of the descriptors inside its Python wheels.

Run by tools/kubeflow.py in an environment that holds those wheels and protobuf:

    python generate.py GENERATOR FOLDER

GENERATOR is protoc-gen-go; without protoc it gets its request from here, as protoc would write it.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2

_MODULES = {
    "api": "kfp/pipeline_spec/pipeline_spec_pb2.py",
    "kubernetes_platform": "kfp/kubernetes/kubernetes_executor_config_pb2.py",
}
_PREFIX = "github.com/kubeflow/pipelines"


def generate(generator: str, folder: Path) -> None:
    """Write one module a wheel below `folder`. Raises what the generator answers it cannot do."""
    for name, path in _MODULES.items():
        described = _load(path)
        request = plugin_pb2.CodeGeneratorRequest(
            file_to_generate=[described.name],
            parameter=f"module={_PREFIX}/{name}",
            proto_file=map(_proto, _with_imports(described, set())),
        )
        done = subprocess.run(
            [generator], input=request.SerializeToString(), stdout=subprocess.PIPE, check=True
        )
        answer = plugin_pb2.CodeGeneratorResponse.FromString(done.stdout)
        if answer.error:
            sys.exit(f"{name}: {answer.error}")
        for file in answer.file:
            target = folder / name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.content)


def _load(path: str) -> Any:
    """The descriptor in a module of a wheel, without its package, which asks for all of kfp."""
    [found] = [Path(place, path) for place in sys.path if Path(place, path).exists()]
    spec = importlib.util.spec_from_file_location(found.stem, found)
    if spec is None or spec.loader is None:
        sys.exit(f"{found} is no Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DESCRIPTOR


def _with_imports(file: Any, seen: set[str]) -> Iterator[Any]:
    """Every file once, after those that it imports."""
    if file.name not in seen:
        seen.add(file.name)
        for imported in file.dependencies:
            yield from _with_imports(imported, seen)
        yield file


def _proto(file: Any) -> descriptor_pb2.FileDescriptorProto:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


if __name__ == "__main__":
    generate(sys.argv[1], Path(sys.argv[2]))
