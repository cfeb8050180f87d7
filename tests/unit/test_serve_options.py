"""We test these aspects of `halftone serve`'s options, without starting anything:

- a directory is served as it is; all else needs a key, or `--trust unsigned`;
- a key makes the signature required, and `--trust` widens verdicts by name;
- values of `--engine-arg` are YAML; one without a value is refused;
- weights lie where caches lie, unless a place is named;
- names come from the artifact, in characters that a model's name may have;
- a key file holds one key;
- a directory that is not there is refused before anything starts.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from halftone.cli.serve_options import Options, api_key, endpoint, require_directories
from halftone.spec.errors import RefusedInput
from halftone.spec.reports import Verdict
from halftone.spec.serving import Accelerator, Signatures, Trust
from tests.commands import halftone

PLAIN = Options(
    artifact="/models/pocket-NVFP4",
    modes=(),
    name=None,
    digest=None,
    public_key=None,
    trust=(),
    replicas=1,
    gpu=False,
    tensor_parallel=1,
    max_model_len=None,
    max_num_seqs=None,
    engine_args=(),
    draft=None,
    draft_digest=None,
    cache_dir=Path("/cache"),
    max_request_seconds=900,
    max_queued_requests=64,
)
KEY = Path("/keys/key.pub")


def trust(**changes: object) -> Trust:
    return endpoint(replace(PLAIN, **changes)).trust  # type: ignore[arg-type]


def test_a_directory_is_served_as_it_is() -> None:
    assert trust() == Trust(
        signature=Signatures.NotRequired,
        verdicts=(Verdict.Passed, Verdict.Emulated, Verdict.Unmeasured),
    )


def test_a_directory_with_a_key_must_be_signed_and_passed() -> None:
    assert trust(public_key=KEY) == Trust(publicKeyFile=str(KEY), verdicts=(Verdict.Passed,))


def test_what_comes_from_elsewhere_needs_a_key() -> None:
    with pytest.raises(RefusedInput, match="--public-key"):
        trust(artifact="hf://org/model")
    assert trust(artifact="s3://b/m", trust=("unsigned",)).verdicts == (Verdict.Passed,)
    signed = trust(artifact="s3://b/m", public_key=KEY, trust=("emulated",))
    assert signed.verdicts == (Verdict.Passed, Verdict.Emulated)
    assert signed.signature is Signatures.Required


def test_engine_arguments_are_yaml() -> None:
    given = ("max-num-batched-tokens=2048", "speculative_config={method: mtp}", "dtype=bfloat16")
    assert endpoint(replace(PLAIN, engine_args=given)).engineArguments == {
        "max_num_batched_tokens": 2048,
        "speculative_config": {"method": "mtp"},
        "dtype": "bfloat16",
    }


@pytest.mark.parametrize("text", ["dtype", "=1", "dtype=", "x={"])
def test_an_engine_argument_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(RefusedInput, match="NAME=VALUE"):
        endpoint(replace(PLAIN, engine_args=(text,)))


@pytest.mark.parametrize(
    ("artifact", "name"),
    [
        ("/models/pocket-NVFP4/", "pocket-NVFP4"),
        ("s3://bucket/team/a model", "a-model"),
        ("hf://org/model@main", "model"),
        ("/", "model"),
    ],
)
def test_names_come_from_the_artifact(artifact: str, name: str) -> None:
    served = endpoint(replace(PLAIN, artifact=artifact, trust=("unsigned",)))
    assert served.servedModelName == name


def test_sizes_and_places_are_passed_on() -> None:
    served = endpoint(replace(PLAIN, max_model_len=4096, tensor_parallel=2, gpu=True))
    assert (served.maxModelLen, served.tensorParallel) == (4096, 2)
    assert served.accelerator is Accelerator.GPU
    assert served.artifact is not None
    assert served.artifact.uri == "/models/pocket-NVFP4"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HALFTONE_CACHE_DIR": "/named", "XDG_CACHE_HOME": "/xdg"}, "/named/halftone/weights"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/halftone/weights"),
        ({"HOME": "/home/me"}, "/home/me/.cache/halftone/weights"),
    ],
)
def test_weights_lie_where_caches_lie(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert endpoint(replace(PLAIN, cache_dir=None)).cache.directory == expected
    assert endpoint(PLAIN).cache.directory == "/cache"


@pytest.mark.parametrize("text", ["", "\n", "one two", "one\ntwo\n"])
def test_a_key_file_holds_one_key(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(RefusedInput, match="one key"):
        api_key(path)


def test_a_key_is_read_without_its_end_of_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret\n")
    assert api_key(path) == "secret"


@pytest.mark.timeout(20)
def test_a_mistake_is_told_before_anything_starts(tmp_path: Path) -> None:
    outcome = halftone("serve", "hf://org/model")
    assert outcome.code == 2
    assert "--public-key" in outcome.err
    nowhere = halftone("serve", tmp_path / "nowhere")
    assert nowhere.code == 2
    assert f"there is no directory '{tmp_path / 'nowhere'}'" in nowhere.err


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    here = replace(PLAIN, artifact=str(tmp_path), draft="hf://org/draft")
    require_directories(here)
    require_directories(replace(here, artifact="s3://bucket/prefix"))
    with pytest.raises(RefusedInput, match=r"PATH_OR_URI.*'/models/pocket-NVFP4'.*hf://org/name"):
        require_directories(PLAIN)
    with pytest.raises(RefusedInput, match=r"--draft.*'/models/draft'"):
        require_directories(replace(here, draft="/models/draft"))
