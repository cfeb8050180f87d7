"""Rows of calibration data: what is one, which are drawn, and how files of them are read.

We test these aspects:
- rows that can be used, rows that are passed over, and each kind of row that is refused
- JSON Lines as editors and other systems write them, packed ones, and files in pieces; what is
  called so and is something else
- the draw: without replacement, from a seed, the same whatever else is asked for
- an image's place: bytes, data: addresses, files beside the data; nothing is fetched, nothing
  outside is read, and what would unpack to gigabytes does not open
- the folder of copies: emptied, and what a disk says is a sentence
- nothing here needs torch
"""

import base64
import gzip
import io
import json
import struct
import subprocess
import sys
import zlib
from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from halftone.quantize.calibration.dataset.images import all_opened, image_bytes, opened
from halftone.quantize.calibration.dataset.json_lines import JsonLines
from halftone.quantize.calibration.dataset.row_drawing import drawn
from halftone.quantize.calibration.dataset.row_index import RowIndex
from halftone.quantize.calibration.dataset.rows import Row, understood
from halftone.quantize.calibration.dataset.scratch import emptied, storing
from halftone.spec.calibration import Dataset, Modality
from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.stores.datasets import DatasetFiles, open_dataset
from tests.builders.datasets import chat_rows, json_lines, png, text_rows, write_rows

ASKED = {"role": "user", "content": "What is this?"}
PLACE = "line 1 of `rows.jsonl`"


def row_of(**fields: Any) -> Row | None:
    return understood(fields, PLACE, "rows.jsonl")


def usable(path: Path, modality: Modality = Modality.Text) -> list[Row]:
    """Every usable row of one modality below `path`, read one after another."""
    dataset = open_dataset(Dataset(path=str(path)))
    with closing(dataset), closing(RowIndex(dataset, list(Modality), path.parent)) as index:
        return list(index.rows(modality, range(index.usable(modality))))


def refusal(path: Path) -> HalftoneError:
    with pytest.raises(RefusedInput) as caught:
        usable(path)
    assert caught.value.reason is Reason.DatasetUnusable
    return caught.value


def test_a_row_is_text_or_messages_with_or_without_images() -> None:
    text = row_of(text="plain", images=None, other=1)
    assert text == Row(PLACE, "rows.jsonl", "plain", None, ())
    assert text.modality is Modality.Text
    shown = row_of(messages=[ASKED], text=None, images=["a.png"])
    assert shown == Row(PLACE, "rows.jsonl", None, (ASKED,), ("a.png",))
    assert shown.modality is Modality.Image


@pytest.mark.parametrize("fields", [{"text": ""}, {"text": " \n"}, {"messages": []}])
def test_a_row_that_says_nothing_is_passed_over(fields: dict[str, Any]) -> None:
    assert row_of(**fields) is None


def test_fields_that_parquet_fills_with_null_are_gone_from_messages() -> None:
    part = {"type": "text", "text": "hello", "image": None}
    message = {"role": "user", "content": [part, {"type": "image", "text": None}], "tools": None}
    asked = {"role": "assistant", "content": None, "calls": [{"name": "f", "id": None}]}

    row = row_of(messages=[message, asked])
    assert row is not None
    assert row.messages == (
        {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "image"}]},
        {"role": "assistant", "content": None, "calls": [{"name": "f"}]},
    )


def test_an_address_in_a_part_is_dropped() -> None:
    part = {"type": "image", "image": "http://example.com/a.png", "url": "file:///etc/passwd"}
    row = row_of(messages=[{"role": "user", "content": [part]}], images=["a.png"])

    assert row is not None
    assert row.messages == ({"role": "user", "content": [{"type": "image"}]},)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": "a", "messages": [ASKED]}, "has both `text` and `messages`"),
        ({"content": "a", "id": 1}, "has neither `text` nor `messages` but `content`, `id`"),
        ({}, "has neither `text` nor `messages` but nothing"),
        ({"text": None, "id": 1}, "neither `text` nor `messages` but `text` (null), `id`; a row"),
        ({"\x1b[31m\n": 1}, "neither `text` nor `messages` but `?[31m?`; a row"),
        ({"text": 5}, "`text` of line 1 of `rows.jsonl` is 5; make it a string"),
        ({"text": "a", "images": "a.png"}, "`images` of line 1 of `rows.jsonl` is 'a.png'; make"),
        ({"messages": "hello"}, "`messages` of line 1 of `rows.jsonl` is 'hello'; make it a list"),
        ({"messages": ["hello"]}, "`messages[0]` of line 1 of `rows.jsonl` is 'hello'; give it a"),
        ({"messages": [ASKED, {"content": "x"}]}, "`messages[1]` of line 1"),
        ({"messages": [{"role": "user", "content": 3}]}, "`content` of `messages[0]` of line 1"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "`content[0]` of `mess"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a part is `type: text`"),
    ],
)
def test_a_row_that_is_none_is_refused_in_a_sentence(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedInput) as caught:
        row_of(**fields)

    assert caught.value.reason is Reason.DatasetUnusable
    assert said in caught.value.message
    assert "line 1 of `rows.jsonl`" in caught.value.message


def test_lines_as_editors_and_other_systems_write_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "first"}\r\n\r\n   \n{"text": ""}\n{"text": "\xc3\xbc\\n2"}\n'
        b'{"messages": [{"role": "user", "content": "three"}]}'
    )

    first, second, third = usable(path)
    assert (first.text, first.place) == ("first", "line 1 of `rows.jsonl`")
    assert (second.text, second.place) == ("ü\n2", "line 5 of `rows.jsonl`")
    assert (third.messages, third.place) == (
        ({"role": "user", "content": "three"},),
        "line 6 of `rows.jsonl`",
    )


def test_files_are_taken_by_name_and_packed_ones_unpacked(tmp_path: Path) -> None:
    rows = text_rows(30)
    write_rows(tmp_path / "b.json", rows[20:])
    (tmp_path / "a").mkdir()
    packed = gzip.compress(json_lines(rows[:5])) + gzip.compress(json_lines(rows[5:20]))
    (tmp_path / "a" / "part.jsonl.gz").write_bytes(packed)
    (tmp_path / "dataset_info.json").write_text('{"rows": 30}')
    (tmp_path / ".part.jsonl").write_text("not finished")
    (tmp_path / "c.jsonl").write_text("")

    assert [row.text for row in usable(tmp_path)] == [row["text"] for row in rows]


def test_modalities_are_kept_apart(tmp_path: Path) -> None:
    write_rows(tmp_path / "1.jsonl", text_rows(3) + chat_rows(2, images=["a.png"]))
    write_rows(tmp_path / "2.jsonl", chat_rows(1, images=["b.png"]) + text_rows(4, seed=1))

    assert len(usable(tmp_path)) == 7
    assert [row.images for row in usable(tmp_path, Modality.Image)] == [
        ("a.png",),
        ("a.png",),
        ("b.png",),
    ]


@given(
    texts=st.lists(st.text('aü \n"\\{,', max_size=20), max_size=12),
    pieces=st.integers(1, 64),
    final=st.booleans(),
)
def test_a_file_read_in_pieces_has_the_rows_of_the_whole(
    texts: list[str], pieces: int, final: bool
) -> None:
    body = json_lines([{"text": text} for text in texts])
    body = body if final else body[:-1]
    file = JsonLines(lambda at, length: body[at : at + length], len(body), "x", piece_bytes=pieces)
    count = sum(1 for _ in file.scan())
    found = [row.text for row in file.read(range(count))]
    lines = body.splitlines() if body else []
    assert found == [text for line in lines if (text := json.loads(line)["text"]).strip()]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"text": "a"', "line 2` holds no valid JSON (Expecting ',' delimiter: column 13); mend"),
        (b'{"text": "\xff"}', "`rows.jsonl, line 2` is not UTF-8 at byte 10; mend or remove the"),
        (
            b'"text"',
            "must hold a JSON object, not a str; mend or remove the line, each of which is",
        ),
        (b'{"text": "a", "text": "b"}', "the key 'text' appears twice"),
        (b'{"text": "\\ud800"}', "holds half of a surrogate pair"),
        (b'{"text": "a", "x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"text": "a", "x": ' + b"[" * 80 + b"]" * 80 + b"}", "nests deeper than 64 levels"),
        (b'{"message": "a"}', "line 2 of `rows.jsonl` has neither"),
    ],
)
def test_a_line_that_is_no_row_is_refused_with_its_number(
    tmp_path: Path, line: bytes, said: str
) -> None:
    error = refusal(write_rows(tmp_path / "rows.jsonl", [{"text": "fine"}, line]))

    assert said in error.message
    assert error.subject == "line 2 of `rows.jsonl`"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (json.dumps([{"text": "a"}], indent=1).encode(), "begins with a JSON array; write JSON Li"),
        (b"\n" + json.dumps([{"text": "a"}]).encode(), "begins with a JSON array; write JSON Lin"),
        (json.dumps({"text": "a"}, indent=1).encode(), "each of which is one JSON object"),
        ('{"text": "a"}\n'.encode("utf-16"), "is in UTF-16 or UTF-32; save it as UTF-8"),
        (
            gzip.compress(b'{"text": "a"}', mtime=0),
            "is packed by gzip; let its name end with `.gz`",
        ),
        (b"PK\x03\x04" + bytes(9), "is a ZIP archive; unpack it"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "is packed by zstd; unpack it"),
        (b"PAR1" + bytes(9), "is Parquet; let its name end with `.parquet`"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "by `git lfs pull`"),
    ],
)
def test_a_file_that_is_no_json_lines_is_told_what_it_is(
    tmp_path: Path, body: bytes, said: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\r\n')
    (tmp_path / "rows.json").write_bytes(body)

    assert said in refusal(tmp_path).message


def test_what_is_no_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(json_lines(text_rows(1)))
    assert "`rows.jsonl.gz` is no whole gzip file" in refusal(tmp_path).message
    for length in (0, 5, -9):
        (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(json_lines(text_rows(9)))[:length])
        assert "`rows.jsonl.gz` is no whole gzip file" in refusal(tmp_path).message


@given(total=st.integers(0, 60), seed=st.integers(0, 2**32 - 1))
def test_a_draw_gives_every_row_once(total: int, seed: int) -> None:
    assert sorted(drawn(total, seed, "Text")) == list(range(total))


def test_a_draw_follows_from_its_seed_and_what_is_drawn() -> None:
    """The numbers themselves are held, because statistics of old data must come out again."""
    assert list(islice(drawn(1000, 7, Modality.Text), 4)) == [644, 330, 876, 133]
    assert list(drawn(50, 7, "Text")) != list(drawn(50, 8, "Text"))
    assert list(drawn(50, 7, "Text")) != list(drawn(50, 7, "Image"))
    assert next(drawn(10**15, 0, "Text")) < 10**15  # costs no memory


def test_a_draw_prefers_no_row() -> None:
    first = Counter(next(drawn(4, seed, "Text")) for seed in range(4000))
    last = Counter(list(drawn(4, seed, "Text"))[3] for seed in range(4000))

    # Binomial with 1/4: five standard deviations are 137.
    assert all(abs(count[row] - 1000) < 137 for count in (first, last) for row in range(4))


@pytest.fixture
def pictures(tmp_path: Path) -> DatasetFiles:
    """A data set of one file with a picture beside it."""
    write_rows(tmp_path / "set" / "rows.jsonl", text_rows(1))
    (tmp_path / "set" / "a.png").write_bytes(png())
    (tmp_path / "outside.png").write_bytes(png(seed=1))
    return open_dataset(Dataset(path=str(tmp_path / "set" / "rows.jsonl")))


def image(reference: Any, pictures: DatasetFiles) -> bytes:
    row = Row(PLACE, "rows.jsonl", "x", None, (reference,))
    return image_bytes(row, 0, pictures)


def test_an_image_is_bytes_a_struct_a_data_address_or_a_file(pictures: DatasetFiles) -> None:
    address = "data:image/png;base64," + base64.b64encode(png()).decode()
    for reference in (png(), {"bytes": png(), "path": "elsewhere/x.png"}, address, "a.png",
                      {"bytes": None, "path": "a.png"}, {"path": address}):  # fmt: skip
        assert image(reference, pictures) == png()


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("https://example.com/a.png", "nothing is fetched from there"),
        ("file:///etc/passwd", "nothing is fetched from there"),
        ("../outside.png", "is no path below the folder of `rows.jsonl`"),
        ("/etc/passwd", "is no path below the folder of `rows.jsonl`"),
        ("b.png", "has no file 'b.png'"),
        ("data:image/png,abc", "is no `data:` address in base64"),
        ("data:image/png;base64,abc", "is no `data:` address in base64"),
        ({"url": "a.png"}, "make it a path below the folder of its file, bytes"),
        (None, "is None; make it a path"),
        (17, "is 17; make it a path"),
    ],
)
def test_an_image_that_is_nowhere_is_refused(
    pictures: DatasetFiles, reference: Any, said: str
) -> None:
    with pytest.raises(RefusedInput) as caught:
        image(reference, pictures)

    assert caught.value.reason is Reason.DatasetUnusable
    assert caught.value.message.startswith("`images[0]` of line 1 of `rows.jsonl` ")
    assert said in caught.value.message


def show(data: bytes) -> Image.Image:
    return opened(data, Row(PLACE, "rows.jsonl", "x", None, (data,)), 0)


def test_a_picture_is_upright_and_rgb() -> None:
    stored, exif = Image.new("L", (40, 20), 7), Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    file = io.BytesIO()
    stored.save(file, "JPEG", exif=exif)

    found = show(file.getvalue())
    assert (found.size, found.mode) == ((20, 40), "RGB")
    assert show(png(48, 32)).size == (48, 32)


def huge_png(side: int) -> bytes:
    """A PNG that says that it has `side` x `side` pixels, and holds none of them."""
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(b""),
    ]
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not open (UnidentifiedImageError); it must be a whole picture of BMP, GIF"),
        (b"GIF89a", "does not open"),
        (png()[:-30], "does not open"),
        (b"P6 1 1 255\n\0\0\0", "does not open"),  # a whole picture of a kind that is not taken
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "does not open"),
        (huge_png(10_000), "has more than 89478485 pixels"),
        (huge_png(60_000), "has more than 89478485 pixels"),
    ],
)
def test_what_is_no_picture_or_too_large_a_one_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(RefusedInput) as caught:
        show(data)

    assert caught.value.message.startswith(f"`images[0]` of line 1 of `rows.jsonl` {said}")


def test_the_pictures_of_a_row_may_not_be_too_large_together() -> None:
    row, files = Row(PLACE, "rows.jsonl", "x", None, ()), [png(40, 30), png(20, 10)]

    assert len(all_opened(files, row, most_pixels=1400)) == 2
    with pytest.raises(RefusedInput, match=r"line 1 of `rows.jsonl` have more than 1,399 pixels"):
        all_opened(files, row, most_pixels=1399)


def test_the_folder_of_copies_is_emptied_and_its_faults_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "copies" / "deep").mkdir(parents=True)
    (tmp_path / "copies" / "deep" / "1").write_text("of an earlier run")
    assert list(emptied(tmp_path / "copies").iterdir()) == []
    assert emptied(tmp_path / "new" / "copies").is_dir()

    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="cannot hold copies of the data") as caught:
        emptied(tmp_path / "file" / "copies")
    assert caught.value.reason is Reason.StorageFailed
    with (
        pytest.raises(EnvironmentFault, match="is full; free some space") as caught,
        storing(tmp_path),
    ):
        Path("/dev/full").write_bytes(b"x")
    assert caught.value.reason is Reason.OutOfSpace


def test_reading_rows_needs_neither_torch_nor_transformers() -> None:
    modules = "row_index, images, row_drawing"
    code = (
        f"import sys; from halftone.quantize.calibration.dataset import {modules}; "
        "sys.exit(bool({'torch', 'transformers', 'pyarrow', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
