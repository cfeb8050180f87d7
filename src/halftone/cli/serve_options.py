"""The command line of `halftone serve` becomes an `Endpoint`.

Called by `serve`, in the environment of the command line, so that a mistake is told at once and
not after Ray has started. It opens no file but the API key's.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from halftone.serve.application import read_endpoint
from halftone.serve.http.keys import is_one_key
from halftone.spec.cache import cache_candidates
from halftone.spec.errors import RefusedInput
from halftone.spec.names import CACHE_DIRECTORY, Reason
from halftone.spec.reports import Verdict
from halftone.spec.serving import Endpoint
from halftone.spec.yaml_text import NotYamlError, parse_yaml

# What `--trust` accepts beside an artifact that is signed and passed.
UNSIGNED: Final = "unsigned"
_VERDICTS: Final = {"emulated": Verdict.Emulated, "unmeasured": Verdict.Unmeasured}
TRUST: Final = (UNSIGNED, *_VERDICTS)
_GPU_DRIVER: Final = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Options:
    """The options as click gives them; `trust` are words of `TRUST`."""

    artifact: str
    modes: tuple[str, ...]
    name: str | None
    digest: str | None
    public_key: Path | None
    trust: tuple[str, ...]
    replicas: int
    gpu: bool | None
    tensor_parallel: int
    max_model_len: int | None
    max_num_seqs: int | None
    engine_args: tuple[str, ...]
    draft: str | None
    draft_digest: str | None
    cache_dir: Path | None
    max_request_seconds: int
    max_queued_requests: int

    @property
    def is_directory(self) -> bool:
        """Whether the artifact lies on this machine."""
        return "://" not in self.artifact


def endpoint(options: Options) -> Endpoint:
    """The endpoint that the options describe.

    Raises RefusedInput for an option that cannot be, and for an artifact from elsewhere that nobody
    vouches for.
    """
    return read_endpoint(
        {
            "servedModelName": options.name or _name(options.artifact),
            "artifact": _reference(options.artifact, options.digest),
            "draft": _reference(options.draft, options.draft_digest) if options.draft else None,
            "trust": _trust(options),
            "cache": {"directory": str((options.cache_dir or _cache()).absolute())},
            "modes": list(options.modes) or ["text"],
            "accelerator": "GPU" if _has_gpu(options) else "CPU",
            "tensorParallel": options.tensor_parallel,
            "maxModelLen": options.max_model_len,
            "maxNumSeqs": options.max_num_seqs,
            "engineArguments": dict(_argument(text) for text in options.engine_args),
            "replicas": options.replicas,
            "limits": {
                "maxRequestSeconds": options.max_request_seconds,
                "maxQueuedRequests": options.max_queued_requests,
            },
        }
    )


def require_directories(options: Options) -> None:
    """Look for the directories of artifact and draft, which Ray would be started for in vain.

    Raises RefusedInput for one that is not there.
    """
    for option, place in (("PATH_OR_URI", options.artifact), ("--draft", options.draft)):
        if place is not None and "://" not in place and not Path(place).is_dir():
            raise RefusedInput(
                Reason.SourceNotFound,
                option,
                f"`{option}`: there is no directory '{place}'; correct the path, or write "
                "`hf://org/name` or `s3://bucket/prefix`.",
            )


def api_key(path: Path) -> str:
    """The key in the file that `--api-key-file` names. Raises RefusedInput."""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedInput(
            Reason.InvalidEndpoint, "--api-key-file", f"`--api-key-file` '{path}': {error}."
        ) from error
    if not is_one_key(key):
        raise RefusedInput(
            Reason.InvalidEndpoint,
            "--api-key-file",
            f"`--api-key-file` '{path}' must hold one key of ASCII characters, without spaces or "
            "further lines.",
        )
    return key


def _reference(place: str, digest: str | None) -> dict[str, Any]:
    uri = place if "://" in place else str(Path(place).absolute())
    return {"uri": uri} | ({} if digest is None else {"digest": digest})


def _trust(options: Options) -> dict[str, Any]:
    """A directory here is somebody's own unless a key is given; all else must be vouched for."""
    signed = options.public_key is not None
    if not signed and not options.is_directory and UNSIGNED not in options.trust:
        raise RefusedInput(
            Reason.InvalidEndpoint,
            "--public-key",
            f"'{options.artifact}' comes from elsewhere; name its signer's key with "
            "`--public-key`, or say `--trust unsigned`.",
        )
    lenient = options.is_directory and not signed and not options.trust
    verdicts = _VERDICTS if lenient else options.trust
    accepted = [Verdict.Passed, *(_VERDICTS[word] for word in verdicts if word in _VERDICTS)]
    trust: dict[str, Any] = {
        "signature": "Required" if signed else "NotRequired",
        "verdicts": [str(verdict) for verdict in dict.fromkeys(accepted)],
    }
    if options.public_key is not None:
        trust["publicKeyFile"] = str(options.public_key.absolute())
    return trust


def _has_gpu(options: Options) -> bool:
    return _GPU_DRIVER.exists() if options.gpu is None else options.gpu


def _name(artifact: str) -> str:
    """The last part of the path or address, in characters that a name may have."""
    last = re.sub(r"[@#?].*", "", artifact.rstrip("/")).rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("._-")[:128] or "model"


def _cache() -> Path:
    """Below the first folder for caches; whoever fills it says what is wrong with it."""
    for base in cache_candidates():
        return base / "halftone" / "weights"
    raise RefusedInput(
        Reason.InvalidEndpoint,
        "--cache-dir",
        "This user has no home directory to keep weights in; name a place with `--cache-dir` or in "
        f"{CACHE_DIRECTORY}.",
    )


def _argument(text: str) -> tuple[str, Any]:
    """`NAME=VALUE`; the value is YAML, so that 32 is a number and `{method: mtp}` a mapping."""
    name, equals, value = text.partition("=")
    try:
        parsed = parse_yaml(value)
    except NotYamlError:
        parsed = None
    if not equals or not name or parsed is None:
        raise RefusedInput(
            Reason.InvalidEndpoint,
            "--engine-arg",
            f"`--engine-arg {text}` must be NAME=VALUE, with a name of vLLM's AsyncEngineArgs and "
            "a value in YAML.",
        )
    return name.replace("-", "_"), parsed
