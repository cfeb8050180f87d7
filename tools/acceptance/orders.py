"""The steps of an acceptance, and the files that they read: job, recipe, requests.

Called by the program. `steps` is pure; `write_inputs` writes into the output folder alone. A job is
taken from a file and changed in what the command line says: its source, its preset, and where it is
published, which is always the output folder. Paths in it become absolute, for it is moved there.
"""

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tools.acceptance.asking import MODEL, MODES, prompts, request

ROOT: Final = Path(__file__).resolve().parents[2]
JOB: Final = ROOT / "examples" / "07-reference-models" / "s0-qwen-27b.yaml"
# Made anew by each attempt: what an earlier one left would look in a report as if it were of this.
_MADE_ANEW: Final = ("answers", "bench", "compare.json", "logs", "plan.json", "report", "requests")
# Requests at a time: alone, a few, and where the published checkpoints lose (S2 at 32).
_LOADS: Final = "1,8,32"


@dataclass(frozen=True)
class Wishes:
    """What the command line says. `output` is absolute; `baseline` is the URL of an endpoint."""

    output: Path
    job: Path = JOB
    source: str | None = None
    recipe: str | None = None
    modes: tuple[str, ...] = MODES
    baseline: str | None = None
    tensor_parallel: int = 1
    port: int = 8000

    @property
    def url(self) -> str:
        """Where the endpoint of each mode is, one after the other."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Step:
    """One command. `answers` is the file that it writes and `asks` the mode whose answer that is;
    `made` is a file that makes the step needless; `during` are steps while this one, which serves
    `url`, is running; without `required` others go on when it fails.
    """

    name: str
    words: tuple[str, ...]
    answers: Path | None = None
    asks: str | None = None
    made: Path | None = None
    during: tuple["Step", ...] = ()
    url: str = ""
    required: bool = False

    @property
    def line(self) -> str:
        """As a user types it."""
        return shlex.join(self.words)


def steps(wishes: Wishes) -> list[Step]:
    """Everything that is done, in order."""
    out, source = wishes.output, source_of(job_of(wishes))
    key = str(out / "key")
    verify = ("halftone", "verify", str(out / "artifact"), "--public-key", f"{key}.pub")
    return [
        Step("machine", ("nvidia-smi", *_FACTS), required=True),
        Step("version", ("halftone", "--version"), required=True),
        Step("key", ("halftone", "keygen", key), made=Path(key), required=True),
        Step("plan", ("halftone", "plan", source, "--recipe", str(out / "recipe.yaml"),
                      "--output", str(out / "plan.json")), required=True),
        Step("run", ("halftone", "run", str(out / "job.yaml"), "--workdir", str(out / "work")),
             required=True),
        Step("verify", (*verify, "--require", "signature,verdict,platform",
                        "--rebuild", "20", "--source", source)),
        *(_served(wishes, mode) for mode in wishes.modes),
    ]  # fmt: skip


_FACTS: Final = (
    "--query-gpu=index,name,memory.total,driver_version,compute_cap",
    "--format=csv",
)


def _served(wishes: Wishes, mode: str) -> Step:
    out = wishes.output
    words = ["halftone", "serve", str(out / "artifact"), "--public-key", str(out / "key.pub")]
    words += ["--gpu", "--mode", mode, "--name", MODEL, "--port", str(wishes.port)]
    if wishes.tensor_parallel > 1:
        words += ["--tensor-parallel", str(wishes.tensor_parallel)]
    return Step(f"serve {mode}", tuple(words), during=tuple(_asked(wishes, mode)), url=wishes.url)


def _asked(wishes: Wishes, mode: str) -> Iterator[Step]:
    out = wishes.output
    answer = out / "answers" / f"{mode}.json"
    body = ("--header=content-type: application/json", f"--post-file={out}/requests/{mode}.json")
    chat = f"{wishes.url}/v1/chat/completions"
    yield Step(f"ask {mode}", (*_fetched(answer), *body, chat), answer, mode)
    if mode == "speculative":
        engine = out / "answers" / "engine.json"
        yield Step("drafts", (*_fetched(engine), f"{wishes.url}/halftone/engine"), engine, "drafts")
    if mode in ("text", "speculative"):
        place = ("--output", str(out / "bench" / mode), "--concurrency", _LOADS)
        card = () if mode == "text" else ("--no-card",)
        beside = ("--baseline", wishes.baseline) if wishes.baseline else ()
        yield Step(f"bench {mode}", ("halftone", "bench", wishes.url, *place, *card, *beside))
    if mode == "text" and wishes.baseline:
        asked = ("--prompts", str(out / "requests" / "prompts.jsonl"))
        told = ("--output", str(out / "compare.json"))
        yield Step("compare", ("halftone", "compare", wishes.baseline, wishes.url, *asked, *told))


def _fetched(answer: Path) -> tuple[str, ...]:
    """By the program that the endpoint's image has too; a refusal's body is kept as the answer."""
    return (
        "wget",
        "--no-verbose",
        "--tries=1",
        "--content-on-error",
        f"--output-document={answer}",
    )


def job_of(wishes: Wishes) -> dict[str, Any]:
    """The job as it is carried out, as a document."""
    job: dict[str, Any] = yaml.safe_load(wishes.job.read_text(encoding="utf-8"))
    spec, folder = job["spec"], wishes.job.resolve().parent
    if wishes.source is not None:
        spec["source"] = _source(wishes.source)
    _absolute(spec["source"].get("directory"), "path", folder)
    if wishes.recipe is not None:
        calibration = spec["quantization"].get("calibration")
        spec["quantization"] = {"preset": wishes.recipe}
        if calibration is not None:
            spec["quantization"]["calibration"] = calibration
    calibration = spec["quantization"].get("calibration", {})
    _absolute(calibration.get("dataset"), "path", folder)
    validation = spec.setdefault("validation", {})
    _absolute(validation, "promptFile", folder)
    for gate in validation.get("gates", ()):
        if str(gate.get("task", "")).endswith((".yaml", ".yml")):
            _absolute(gate, "task", folder)
    spec.pop("workVolume", None)
    spec["publish"] = {
        "directory": {"path": str(wishes.output / "artifact")},
        "existing": "Replace",
        "signingKeyRef": {"path": str(wishes.output / "key")},
    }
    return job


def _source(uri: str) -> dict[str, Any]:
    """The block of a source as `halftone plan` takes it on the command line."""
    if uri.startswith("hf://"):
        repository, _, revision = uri.removeprefix("hf://").partition("@")
        return {"huggingFace": {"repository": repository, "revision": revision or "main"}}
    if uri.startswith("s3://"):
        return {"s3": {"uri": uri}}
    return {"directory": {"path": str(Path(uri).resolve())}}


def source_of(job: dict[str, Any]) -> str:
    """The other way round."""
    source = job["spec"]["source"]
    if "huggingFace" in source:
        hub = source["huggingFace"]
        return f"hf://{hub['repository']}@{hub.get('revision', 'main')}"
    return str(source["s3"]["uri"] if "s3" in source else source["directory"]["path"])


def _absolute(block: dict[str, Any] | None, key: str, folder: Path) -> None:
    if block and key in block:
        block[key] = str((folder / block[key]).resolve())


def is_of_another_job(wishes: Wishes) -> bool:
    """Whether the output folder holds work that was made for another source or recipe."""
    earlier, out = wishes.output / "job.yaml", wishes.output
    if not earlier.is_file() or not (out / "work").exists():
        return False
    before = yaml.safe_load(earlier.read_text(encoding="utf-8"))
    return _decides_bytes(before) != _decides_bytes(job_of(wishes))


def _decides_bytes(job: dict[str, Any]) -> tuple[Any, ...]:
    spec = job["spec"]
    return job.get("metadata"), spec["source"], spec["quantization"]


def write_inputs(wishes: Wishes) -> None:
    """Job, recipe and requests, into the output folder, without what an earlier attempt measured.

    What that quantized and published stays, and is gone on from.
    """
    job, out = job_of(wishes), wishes.output
    for name in _MADE_ANEW:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        (out / name).unlink(missing_ok=True)
    for folder in ("answers", "requests"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    (out / "recipe.yaml").write_text(yaml.safe_dump(job["spec"]["quantization"], sort_keys=False))
    for mode in wishes.modes:
        (out / "requests" / f"{mode}.json").write_text(json.dumps(request(mode)))
    (out / "requests" / "prompts.jsonl").write_text(prompts())
