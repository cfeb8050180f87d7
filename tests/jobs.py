"""A job beside its model, run whole or stage by stage, as tests of the command line need it."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from tests.builders import write_checkpoint
from tests.commands import Outcome, halftone


def make_project(folder: Path) -> Path:
    """A directory with a model and a job file beside it."""
    write_checkpoint(folder / "model", "qwen3_5")
    write_job(folder)
    return folder


def write_job(project: Path, **changes: Any) -> Path:
    spec: dict[str, Any] = {
        "source": {"directory": {"path": "model"}},
        "quantization": {"preset": "nvfp4a16"},
        "publish": {"directory": {"path": "published/small"}},
    }
    document = {
        "apiVersion": "halftone.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": "small"},
        "spec": spec | changes,
    }
    path = project / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run(project: Path, workdir: Path) -> Outcome:
    return halftone("run", project / "job.yaml", "--workdir", workdir)


def stage(name: str, workdir: Path, *options: str) -> Outcome:
    return halftone("stage", name, "--workdir", workdir, *options)


def publish(workdir: Path) -> Outcome:
    """Publish with the digest of the report that lies there, as whoever ran the gates has it."""
    path = workdir / "report.json"
    digest = sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64
    return stage("publish", workdir, "--report-digest", digest)


def stamps(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }
