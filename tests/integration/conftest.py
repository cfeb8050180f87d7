"""Data that several integration tests read and none may change.

Called by pytest. What a single file needs stands in that file.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from halftone.publish.keys import generate_key
from tests.builders import write_checkpoint
from tests.commands import Made, quantize_directory, wide_config
from tests.doubles.hub_writing import HubWritingDouble
from tests.doubles.s3 import S3Double
from tests.drafts import TOKEN
from tests.servers.versitygw import VersityGateway


@pytest.fixture(scope="session")
def wide_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose groups take several tiles, in three shards; 60 MB."""
    return write_checkpoint(tmp_path_factory.mktemp("wide") / "source", wide_config())


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dense hybrid with vision and a multi-token-prediction head."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "source", "qwen3_5")


@pytest.fixture(scope="session")
def tiny_made(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`tiny_source` in NVFP4A16."""
    return quantize_directory(tiny_source, tmp_path_factory.mktemp("made") / "output")


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key to sign with; its public part lies beside it."""
    path = tmp_path_factory.mktemp("key") / "key"
    generate_key(path)
    return path


@pytest.fixture
def s3_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Double]:
    """An S3 of our own, with credentials in the environment and none from this machine."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with S3Double() as double:
        monkeypatch.setenv("AWS_ENDPOINT_URL", double.endpoint)
        yield double


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGateway]:
    """A real S3 server for all tests; what is in it belongs to the bucket of a test."""
    with VersityGateway(tmp_path_factory.mktemp("versitygw") / "server") as server:
        yield server


@pytest.fixture
def bucket(s3_server: VersityGateway, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket, with its server and keys in the environment."""
    name = f"test-{secrets.token_hex(8)}"
    s3_server.client.create_bucket(Bucket=name)
    for variable, value in s3_server.environment.items():
        monkeypatch.setenv(variable, value)
    return name


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubWritingDouble]:
    """A Hub to write to, with the token for it in the environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubWritingDouble(TOKEN) as double:
        monkeypatch.setenv("HF_ENDPOINT", double.endpoint)
        yield double
