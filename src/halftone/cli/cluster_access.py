"""The way to an API server: a kubeconfig, a connection, and errors turned into sentences.

Called by `cluster`, and by `autoscale_options` for its kubeconfig. It knows no object.
"""

import asyncio
import subprocess
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import httpx
import kr8s
import kr8s.asyncio
import yaml

from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason

# A server that says nothing for so long is not there.
SECONDS: Final = 30.0
_NO_SERVER = (kr8s.APITimeoutError, TimeoutError, httpx.HTTPError, httpx.InvalidURL)
_NO_KUBECONFIG = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OSError,
    yaml.YAMLError,
    subprocess.SubprocessError,
)


class NotThere(RefusedInput):
    """There is no object of that name."""


@asynccontextmanager
async def connection(
    namespace: str | None, kubeconfig: str | None, context: str | None
) -> AsyncIterator[tuple[Any, str]]:
    """A client, and the namespace that is meant: the one given, else the context's own.

    Raises RefusedInput for a kubeconfig that cannot be used, EnvironmentFault for a silent server.
    """
    with _temporary_files_removed():
        client = await _client(kubeconfig, context)
        try:
            yield client, namespace or _own_namespace(client)
        finally:
            if client._session is not None:  # the library has no other way to close it
                await client._session.aclose()


async def _client(kubeconfig: str | None, context: str | None) -> Any:
    try:
        with warnings.catch_warnings():
            # Which versions the library was tried with is nothing that a user can mend.
            warnings.simplefilter("ignore", UserWarning)
            async with asyncio.timeout(SECONDS):
                client = await kr8s.asyncio.api(kubeconfig=kubeconfig, context=context)
    except kr8s.ServerError as error:
        raise refusal(error, "version") from error
    except _NO_SERVER as error:
        raise unreachable(error) from error
    except _NO_KUBECONFIG as error:
        raise _unusable(error) from error
    client.timeout = SECONDS
    return client


def _own_namespace(client: Any) -> str:
    """Of the context that is used; the library takes it from the present one."""
    auth = client.auth
    if not auth.active_context:
        return str(auth.namespace)  # in a pod
    return str(auth.kubeconfig.get_context(auth.active_context).get("namespace") or "default")


@contextmanager
def _temporary_files_removed() -> Iterator[None]:
    """The library writes keys of a kubeconfig into temporary files and leaves them there."""
    former = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="halftone-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = former


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what the server and the client say about `path` into a sentence."""
    try:
        yield
    except kr8s.ServerError as error:
        raise refusal(error, path) from error
    except (*_NO_SERVER, OSError) as error:
        raise unreachable(error) from error


def refusal(error: Any, path: str) -> HalftoneError:
    """The server's own words: they name the field, or the verb and the account."""
    code = error.response.status_code if error.response is not None else 0
    # An answer of the API itself is a `Status`; others come from what stands before it.
    told = error.status if isinstance(error.status, dict) else None
    message = str((told or {}).get("message") or error)
    subject = path.partition("?")[0]
    if code == 401:
        said = "The cluster does not know you: log in to it again, or name another `--context`."
        return RefusedInput(Reason.AccessDenied, subject, said)
    if code == 403:
        said = f"The cluster does not let you: {message}"
        return RefusedInput(Reason.AccessDenied, subject, said)
    if code == 404 and (told is None or "could not find the requested resource" in message):
        return EnvironmentFault(
            Reason.MissingDependency,
            subject,
            "The cluster knows no QuantizationJobs. Install the operator first: `helm install "
            "halftone charts/halftone-operator -n halftone --create-namespace --set "
            "image.registry=REGISTRY`.",
        )
    if code == 404:
        return NotThere(Reason.InvalidJob, subject, _sentence(message))
    if code == 409 and "Apply failed" in message:
        said = f"{_sentence(message)} Somebody else set these fields; leave them out of the file, "
        said += "or take them over with `kubectl apply --server-side --force-conflicts -f`."
        return RefusedInput(Reason.InvalidJob, subject, said)
    if code in (400, 409, 422):
        return RefusedInput(Reason.InvalidJob, subject, _sentence(message))
    said = f"The cluster answered {code}: {_sentence(message)}"
    return EnvironmentFault(Reason.StoreUnavailable, subject, said)


def unreachable(error: BaseException) -> EnvironmentFault:
    """Nobody answers, or the way is cut."""
    why = str(error) or type(error).__name__
    return EnvironmentFault(
        Reason.StoreUnavailable,
        "kubeconfig",
        f"The cluster cannot be reached ({why}); check the network, `--kubeconfig` and "
        "`--context`.",
    )


def _unusable(error: BaseException) -> RefusedInput:
    if "Unable to find valid credentials" in str(error):
        said = (
            "There is no kubeconfig that names a cluster; give one with `--kubeconfig` or the "
            "variable `KUBECONFIG`."
        )
    else:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        why = " ".join(why.split()) or type(error).__name__
        said = (
            f"The kubeconfig cannot be used ({why}); check it with `kubectl config view`, or name "
            "another with `--kubeconfig` and `--context`."
        )
    return RefusedInput(Reason.InvalidJob, "kubeconfig", said)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
