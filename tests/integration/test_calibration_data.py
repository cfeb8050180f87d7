"""Calibration data as the model gets it, by the tokenizer and processor of real transformers.

One process of the quantize environment prepares every case; what transformers makes of the same
rows unaided is asked there too.

We test these aspects:
- ids and inputs are transformers' own: text, messages, pictures, of Qwen3.5 and of Gemma 4
- JSON Lines, Parquet, data: addresses, the Hub and a bucket give the same samples of the same rows
- `samples` counts rows of each modality; chained modalities are each of them alone
- messages in parts and in strings, under templates that take the one, the other, or either
- long rows: text is cut, rows with images are passed over; both are counted
- what is digested of rows, and of tokenizer, template and processor; templates with a date give the
  same ids every day
- every refusal, with the row or field
- copies of images lie in the folder of the caller, and go before the next ones come
"""

import base64
import hashlib
import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.builders import tiny_config, write_checkpoint
from tests.builders.companions import SPECIAL_TOKENS
from tests.builders.datasets import chat_rows, json_lines, png, write_images, write_rows
from tests.calibration_cases import (
    BOTH,
    IMAGE,
    PARQUET,
    PICTURE,
    REFUSED,
    SPOKEN,
    SPOKEN_TEXT,
    TEMPLATES,
    TEXTS,
    begin_every_text,
)  # fmt: skip
from tests.doubles.hub import HubDouble
from tests.doubles.s3 import S3Double
from tests.environments import ask

pytestmark = pytest.mark.quantize_env

TOKEN = "hf_" + "s3cret" * 5


@dataclass(frozen=True)
class Asked:
    """What the peer answered, and what it was asked about."""

    cases: dict[str, Any]
    direct: dict[str, Any]
    left: list[str]
    shown: list[dict[str, Any]]

    def __getitem__(self, name: str) -> Any:
        return self.cases[name]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and data sets."""
    folder = tmp_path_factory.mktemp("calibration")
    for model in ("qwen3_5", "gemma4_unified", "llama"):
        write_checkpoint(folder / model, model)
    write_checkpoint(folder / "small", tiny_config("llama", vocab_size=100))
    for name in ("mute", "strict", "dated", "bare", "listed"):
        shutil.copytree(folder / "llama", folder / name)
    shutil.copytree(folder / "qwen3_5", folder / "blind")
    (folder / "blind" / "preprocessor_config.json").unlink()
    (folder / "mute" / "chat_template.jinja").unlink()
    (folder / "bare" / "tokenizer.json").unlink()
    objection = "{{ raise_exception('roles must alternate') }}"
    (folder / "strict" / "chat_template.jinja").write_text(objection)
    (folder / "dated" / "chat_template.jinja").write_text("{{ strftime_now('%Y-%m-%d') }}")
    shutil.copytree(folder / "llama", folder / "annotated")
    for name in ("README.md", "generation_config.json", "requirements.txt", "notes.json"):
        (folder / "annotated" / name).write_text("{}")
    (folder / "listed" / "config.json").write_text(
        json.dumps(tiny_config("llama") | {"text_config": [1]})
    )
    for name, template in TEMPLATES.items():
        shutil.copytree(folder / "llama", folder / name)
        (folder / name / "chat_template.jinja").write_text(template)
    shutil.copytree(folder / "qwen3_5", folder / "flat")
    (folder / "flat" / "chat_template.jinja").write_text(TEMPLATES["strings"])
    begin_every_text(folder / "gemma4_unified" / "tokenizer.json", SPECIAL_TOKENS[0])
    write_images(folder / "pictures", 6)
    (folder / "pictures" / "broken.png").write_bytes(png()[:-40])
    (folder / "pictures" / "strip.png").write_bytes(png(1, 300))
    (folder / "pictures" / "large.png").write_bytes(png(320, 320))
    (folder / "garbage.parquet").write_bytes(b"PAR1 and no more")
    return folder


@pytest.fixture(scope="module")
def answers(work: Path) -> Asked:
    """All cases, prepared in one process."""
    names = [f"pictures/{index}.png" for index in range(6)]
    shown = chat_rows(6, images=names)
    shown.append({"text": f"two {PICTURE}{PICTURE}", "images": [names[1], names[0]]})
    with (
        S3Double() as s3,
        HubDouble(work / "hub", "org/rows", kind="dataset", token=TOKEN, large_file_bytes=1) as hub,
    ):
        s3.put("rows", "set/rows.jsonl", json_lines(shown))
        for name in names:
            s3.put("rows", f"set/{name}", (work / name).read_bytes())
        cases = local(work, shown) | served(hub, s3)
        for name, case in REFUSED.items():
            cases[name] = asked(work, name, case.rows, case.checkpoint, **case.calibration)
        (work / "temporary").mkdir()
        request = {
            "temporary": str(work / "temporary"),
            "scratch": str(work / "deep" / "scratch"),
            "cases": cases,
            "direct": directly(work, shown),
            "parquet": parquet(work, shown),
        }
        answer = ask("quantize", "calibration_data.py", request, work=work, timeout_s=300)
    return Asked(**answer, shown=shown)


def asked(
    work: Path, name: str, rows: Any, checkpoint: str = "qwen3_5", **calibration: Any
) -> dict[str, Any]:
    """A case over `rows`, written beside the pictures, or over the file or folder of that name."""
    path = work / (rows if isinstance(rows, str) else file_of(name))
    if not isinstance(rows, str):
        write_rows(path, rows)
    usual: dict[str, Any] = {"samples": 1, "maxSequenceLength": 256}
    given = usual | {"dataset": {"path": str(path)}} | calibration
    return {"checkpoint": str(work / checkpoint), "calibration": given}


def file_of(name: str) -> str:
    """What the file of a case is called."""
    return f"{name.replace(' ', '-')}.jsonl"


def local(work: Path, shown: list[dict[str, Any]]) -> dict[str, Any]:
    """Cases over files of this machine."""
    write_rows(work / "split" / "a" / "1.jsonl", TEXTS[:5])
    write_rows(work / "split" / "b.json", TEXTS[5:])
    inside = [row | {"images": [address(work / one) for one in row["images"]]} for row in shown]
    long = chat_rows(1, images=["pictures/0.png"])[0]
    long["messages"].append({"role": "user", "content": "word " * 100})
    all_seven = IMAGE | {"samples": 7}
    both: dict[str, Any] = {"samples": 7, "seed": 3}
    return {
        "text": asked(work, "text", TEXTS, samples=7, seed=3),
        "text in two files": asked(work, "", "split", samples=7, seed=3),
        "text by another seed": asked(work, "", "text.jsonl", samples=7, seed=4),
        "text, cut": asked(work, "", "text.jsonl", samples=20, maxSequenceLength=90),
        "text of llama": asked(work, "", "text.jsonl", "llama", samples=7, seed=3),
        "text of annotated": asked(work, "", "text.jsonl", "annotated", samples=7, seed=3),
        "text of listed": asked(work, "", "text.jsonl", "listed", samples=7, seed=3),
        "text of gemma": asked(work, "", "text.jsonl", "gemma4_unified", samples=20),
        "dated": asked(work, "dated", TEXTS[12:], "dated"),
        "pictures": asked(work, "pictures", shown, **all_seven),
        "pictures of gemma": asked(work, "", "pictures.jsonl", "gemma4_unified", **all_seven),
        "pictures inside": asked(work, "inside", inside, **all_seven),
        "pictures in Parquet": asked(work, "", "shown.parquet", **all_seven),
        "both": asked(work, "both", [*TEXTS, *shown], modalities=BOTH, **both),
        "both turned": asked(work, "", "both.jsonl", modalities=BOTH[::-1], **both),
        "long": asked(work, "long", [long, *shown], **IMAGE, samples=6),
        "fewer": asked(work, "", "long.jsonl", **IMAGE, samples=9, fewerSamples="Allow"),
    } | {name: asked(work, name, SPOKEN, name) for name in TEMPLATES}


def served(hub: HubDouble, s3: S3Double) -> dict[str, Any]:
    """Cases over the Hub and a bucket; their environment stays for the cases that follow."""
    repository = {"huggingFace": {"repository": "org/rows", "path": "data"}}
    bucket = {"s3": {"uri": "s3://rows/set", "endpointUrl": s3.endpoint}}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": TOKEN}
    return {
        "pictures of the Hub": asked(hub.directory.parent, "", "", **IMAGE, samples=7,
            dataset=repository) | {"environment": {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}},
        "pictures of a bucket": asked(hub.directory.parent, "", "", **IMAGE, samples=7,
            dataset=bucket) | {"environment": keys},
    }  # fmt: skip


def directly(work: Path, shown: list[dict[str, Any]]) -> dict[str, Any]:
    """Every row, for transformers alone."""
    rows = {f"text {index}": ("qwen3_5", row) for index, row in enumerate(TEXTS)}
    rows |= {f"gemma {index}": ("gemma4_unified", row) for index, row in enumerate(TEXTS)}
    for model in ("qwen3_5", "gemma4_unified"):
        rows |= {f"{model} {index}": (model, row) for index, row in enumerate(shown)}
    return {
        name: {
            "checkpoint": str(work / model),
            "row": row,
            "images": [str(work / image) for image in row.get("images", ())],
        }
        for name, (model, row) in rows.items()
    }


def parquet(work: Path, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parquet files for the peer to write, in groups of few rows."""
    rows = []
    for row in json.loads(json.dumps(shown)):
        for message in row.get("messages", ()):
            if isinstance(message["content"], str):  # a column has one type
                message["content"] = [{"type": "text", "text": message["content"]}]
        held = [(work / image).read_bytes() for image in row["images"]]
        images = [{"bytes": base64.b64encode(one).decode(), "path": "x.png"} for one in held]
        rows.append({"messages": None, "text": None} | row | {"images": images})
    (work / "hub" / "data").mkdir(parents=True)
    files = PARQUET | {"shown.parquet": rows, "hub/data/train.parquet": rows}
    return [{"file": str(work / name), "rows": held, "groups": 3} for name, held in files.items()]


def address(image: Path) -> str:
    """A picture as a data: address."""
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()


def digest(samples: list[dict[str, Any]], pictures: list[list[bytes]]) -> str:
    """SHA-256 over ids and pictures, as `statistics.json` states it."""
    body = b""
    for sample, shown in zip(samples, pictures, strict=True):
        [ids] = sample["ids"]
        body += struct.pack(f"<{len(ids) + 2}q", len(ids), *ids, len(shown))
        body += b"".join(hashlib.sha256(picture).digest() for picture in shown)
    return hashlib.sha256(body).hexdigest()


def test_text_is_what_the_tokenizer_makes_of_it(answers: Asked) -> None:
    whole = [answers.direct[f"text {index}"]["ids"] for index in range(len(TEXTS))]
    drawn = [whole.index(sample["ids"]) for sample in answers["text"]["samples"]]

    assert drawn == sorted(set(drawn))  # without replacement, in the order of the data
    assert len(drawn) == 7
    for sample in answers["text"]["samples"]:
        assert sample["input_ids"][:2] == [[1, len(sample["ids"][0])], "torch.int64"]
        assert sample["attention_mask"][0] == sample["input_ids"][0]
        assert set(sample) == {"ids", "input_ids", "attention_mask"}
    [measured] = answers["text"]["measured"]
    assert measured["usable"] == 20
    assert measured["tokens"] == sum(len(one["ids"][0]) for one in answers["text"]["samples"])
    assert measured["sha256"] == digest(answers["text"]["samples"], [[]] * 7)
    assert (measured["images"], measured["truncated"]) == (0, 0)


def test_the_draw_follows_from_the_rows_and_the_seed(answers: Asked) -> None:
    digests = {name: answers[name]["measured"][0]["sha256"] for name in (
        "text", "text in two files", "text by another seed", "text of llama")}  # fmt: skip

    assert digests["text"] == digests["text in two files"] == digests["text of llama"]
    assert digests["text"] != digests["text by another seed"]


def test_only_text_gets_the_tokens_that_the_tokenizer_adds(answers: Asked) -> None:
    whole = [answers.direct[f"gemma {index}"]["ids"] for index in range(len(TEXTS))]

    assert [sample["ids"] for sample in answers["text of gemma"]["samples"]] == whole
    assert [ids[0][0] == 0 for ids in whole] == ["text" in row for row in TEXTS]


def test_long_text_is_cut_and_counted(answers: Asked) -> None:
    whole = [answers.direct[f"text {index}"]["ids"][0] for index in range(len(TEXTS))]
    longer = sum(len(ids) > 90 for ids in whole)

    assert [sample["ids"][0] for sample in answers["text, cut"]["samples"]] == [
        ids[:90] for ids in whole
    ]
    assert 0 < longer < len(TEXTS)
    assert answers["text, cut"]["measured"][0]["truncated"] == longer


def test_a_template_with_a_date_gives_the_same_ids_every_day(answers: Asked) -> None:
    [sample] = answers["dated"]["samples"]

    # The stand-in tokenizer has a token for every byte, after the special ones.
    assert sample["ids"] == [[len(SPECIAL_TOKENS) + byte for byte in b"2025-01-01"]]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_gets_parts_or_strings_as_it_takes_them(answers: Asked, template: str) -> None:
    [sample] = answers[template]["samples"]

    assert sample["ids"] == [[len(SPECIAL_TOKENS) + byte for byte in SPOKEN_TEXT.encode()]]


@pytest.mark.parametrize(
    ("case", "model"), [("pictures", "qwen3_5"), ("pictures of gemma", "gemma4_unified")]
)
def test_pictures_are_what_the_processor_makes_of_them(
    answers: Asked, work: Path, case: str, model: str
) -> None:
    expected = [answers.direct[f"{model} {index}"] for index in range(7)]

    assert answers[case]["samples"] == expected
    assert "pixel_values" in expected[0]
    [measured] = answers[case]["measured"]
    pictures = [[(work / image).read_bytes() for image in row["images"]] for row in answers.shown]
    assert measured["sha256"] == digest(expected, pictures)
    assert (measured["images"], measured["usable"]) == (8, 7)


@pytest.mark.parametrize("where", ["inside", "in Parquet", "of the Hub", "of a bucket"])
def test_the_same_pictures_from_anywhere_are_the_same_samples(answers: Asked, where: str) -> None:
    found, plain = answers[f"pictures {where}"], answers["pictures"]

    assert found["samples"] == plain["samples"]
    assert found["measured"][0]["sha256"] == plain["measured"][0]["sha256"]


def test_data_are_named_and_pinned(answers: Asked, work: Path) -> None:
    [hub] = answers["pictures of the Hub"]["measured"]
    [bucket] = answers["pictures of a bucket"]["measured"]
    [file] = answers["pictures"]["measured"]

    assert hub["uri"] == "hf://datasets/org/rows@main/data"
    assert len(hub["revision"]) == 40
    assert (bucket["uri"], bucket["revision"]) == ("s3://rows/set", None)
    assert (file["uri"], file["revision"]) == (str(work / "pictures.jsonl"), None)


def test_what_turns_rows_into_inputs_is_digested(answers: Asked, work: Path) -> None:
    accepted = set(answers.cases) - set(REFUSED)
    coders = {name: answers[name]["measured"][0]["coders"] for name in accepted}
    begin = ("chat_template", "preprocessor", "tokenizer", "video_preprocessor")
    body = b""
    for path in sorted((work / "qwen3_5").iterdir()):
        if path.name.startswith(begin):
            held = path.read_bytes()
            body += path.name.encode() + b"\0" + struct.pack("<q", len(held)) + held

    assert coders["text"] == coders["pictures"] == hashlib.sha256(body).hexdigest()
    assert coders["text of llama"] == coders["text of annotated"]  # what nobody reads
    assert len({coders["text of llama"], coders["dated"], *map(coders.get, TEMPLATES)}) == 8


def test_a_configuration_that_is_wrong_elsewhere_does_not_matter(answers: Asked) -> None:
    assert answers["text of listed"]["samples"] == answers["text of llama"]["samples"]


def test_chained_modalities_are_each_of_them_alone(answers: Asked) -> None:
    both, turned = answers["both"], answers["both turned"]
    text, pictures = both["measured"]

    assert both == turned
    assert both["modalities"] == ["Text"] * 7 + ["Image"] * 7
    assert both["samples"] == answers["text"]["samples"] + answers["pictures"]["samples"]
    assert text["sha256"] == answers["text"]["measured"][0]["sha256"]
    assert pictures["sha256"] == answers["pictures"]["measured"][0]["sha256"]


def test_rows_with_images_that_are_too_long_are_passed_over(answers: Asked) -> None:
    long, fewer, fitting = answers["long"], answers["fewer"], answers["pictures"]["samples"]

    # The long row is the first of eight; the draw has it among the first six, and another after it.
    assert long["samples"] == [fitting[index] for index in (0, 1, 2, 4, 5, 6)]
    assert long["measured"][0]["truncated"] == 0
    assert fewer["samples"] == fitting
    assert fewer["measured"][0]["usable"] == fewer["measured"][0]["samples"] == 7
    assert fewer["notices"] == [
        "Image: 7 samples instead of 9; the data hold no more usable rows.",
        "Image: 1 rows were passed over, because they are longer than `maxSequenceLength` 256.",
    ]


def test_samples_are_the_same_each_time(answers: Asked) -> None:
    assert all(answers[name]["again"] for name in answers.cases if name not in REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(answers: Asked, name: str) -> None:
    case = REFUSED[name]
    reason, subject, message = answers[name]["refused"]

    assert reason == case.reason
    assert case.said.replace("FILE", file_of(name)) in message
    assert subject
    assert "s3cret" not in message


def test_copies_of_images_lie_where_the_caller_says_and_nowhere_else(answers: Asked) -> None:
    assert answers.left == []
    # One folder for all cases, so that what earlier ones left in it would be counted here.
    for name in set(answers.cases) - set(REFUSED):
        assert answers[name]["copies"] == sum(data["images"] for data in answers[name]["measured"])
