"""The ML Metadata server of a Kubeflow back end: the store of Google's wheel, behind its own gRPC.

Started by `kubeflow` in an environment of its own (`.venvs/kubeflow`), because the wheel pins an
old protobuf. Nobody ships this server as a package; the wheel has all of it but the listening:

    python kubeflow_metadata.py ADDRESS DATABASE

Requests and answers stay bytes. The store is for one caller at a time.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from ml_metadata.metadata_store.pywrap.metadata_store_extension import metadata_store
from ml_metadata.proto import metadata_store_pb2, metadata_store_service_pb2

_SERVICE = metadata_store_service_pb2.DESCRIPTOR.services_by_name["MetadataStoreService"]
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_THREADS = 8


def serve(address: str, database: str) -> None:
    """Answer at `address` out of the SQLite file `database`, until the process is ended."""
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    methods = dict(_methods(_store(database)))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE.full_name, methods),)
    )
    if not server.add_insecure_port(address):
        sys.exit(f"nobody can listen at {address}")
    server.start()
    print(f"{len(methods)} methods at {address}", flush=True)
    server.wait_for_termination()


def _store(database: str) -> Any:
    sqlite = metadata_store_pb2.SqliteMetadataSourceConfig(
        filename_uri=database,
        connection_mode=metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE,
    )
    connection = metadata_store_pb2.ConnectionConfig(sqlite=sqlite)
    migration = metadata_store_pb2.MigrationOptions()
    return metadata_store.CreateMetadataStore(
        connection.SerializeToString(), migration.SerializeToString()
    )


def _methods(store: Any) -> Iterator[tuple[str, grpc.RpcMethodHandler]]:
    """Every method of the interface that the wheel implements, as it came and as it goes: bytes."""
    alone = threading.Lock()
    for method in _SERVICE.methods:
        implementation = getattr(metadata_store, method.name, None)
        if implementation is not None:
            yield (
                method.name,
                grpc.unary_unary_rpc_method_handler(_handler(store, implementation, alone)),
            )


def _handler(
    store: Any, implementation: Callable[..., tuple[bytes, bytes, int]], alone: threading.Lock
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        with alone:
            answer, problem, code = implementation(store, request)
        if code:
            status = _STATUS.get(code, grpc.StatusCode.UNKNOWN)
            context.abort(status, problem.decode(errors="replace"))
        return answer

    return handle


if __name__ == "__main__":
    serve(*sys.argv[1:])
