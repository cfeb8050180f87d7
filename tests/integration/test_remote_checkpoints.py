"""A checkpoint is the same wherever it lies, and costs one request a header over a network.

The stores' own tests cover reading; here `read_checkpoint` runs over the Hub and S3.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from halftone.checkpoint.headers import serialize_header
from halftone.checkpoint.index import Checkpoint, read_checkpoint
from halftone.spec.dtypes import Dtype
from halftone.spec.names import CONFIG_FILE, INDEX_FILE
from halftone.stores import open_source
from tests.doubles.hub import Fault, HubDouble, Place
from tests.doubles.s3 import S3Double

SHARDS = 12


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Twelve sparse shards of 3000 tensors, each with a header longer than the first guess."""
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        file = f"model-{shard:05}.safetensors"
        names = [f"model.layers.{shard}.mlp.experts.{n}.gate_proj.weight" for n in range(3000)]
        rows = [(n, Dtype.BF16, (4, 8), at * 64, at * 64 + 64) for at, n in enumerate(names)]
        header = serialize_header(rows, {"format": "pt"})
        with (tmp_path / file).open("wb") as opened:
            opened.write(header)
            opened.truncate(len(header) + rows[-1][4])
        weight_map |= dict.fromkeys(names, file)
    (tmp_path / CONFIG_FILE).write_text('{"model_type": "qwen3_moe"}')
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


@contextmanager
def on_the_hub(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with HubDouble(base, large_file_bytes=10_000_000) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.fail(Place.Resolve, Fault.Unavailable, times=3)
        yield hub.uri


@contextmanager
def on_s3(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with S3Double() as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        for file in base.iterdir():
            s3.put("models", f"base/{file.name}", file.read_bytes())
        yield "s3://models/base"


def contents(checkpoint: Checkpoint) -> tuple[object, ...]:
    """All of a checkpoint but the place that it came from."""
    return checkpoint.config, checkpoint.shards, checkpoint.tensors, checkpoint.other_files


Store = Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[str]]


@pytest.mark.parametrize(("store", "retries"), [(on_the_hub, 3), (on_s3, 0)])
def test_a_checkpoint_is_the_same_from_every_store(
    base: Path, monkeypatch: pytest.MonkeyPatch, store: Store, retries: int
) -> None:
    with closing(open_source(base)) as local:
        expected = read_checkpoint(local)
    with store(base, monkeypatch) as uri, closing(open_source(uri)) as source:
        assert contents(read_checkpoint(source)) == contents(expected)
        # The listing, the configuration, the index, and one for each header.
        assert source.traffic.requests == 3 + SHARDS + retries
        headers = sum(shard.header_bytes for shard in expected.shards)
        described = sum((base / name).stat().st_size for name in (CONFIG_FILE, INDEX_FILE))
        assert headers < source.traffic.bytes - described < 1.5 * headers
