"""The committed pocket model is whole, in the layout of the Hub, and as good as its log says.

We test these aspects: checksums and size; shards, index and headers; names and what the
configuration promises; the held-out items; the calibration data; the figures of the training log;
the score itself. All but the last read files only.
"""

import hashlib
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.environments import python_of

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pocket-model"
CHECKPOINT = EXAMPLE / "checkpoint"
FULL_ATTENTION = "model.language_model.layers.3.self_attn."

Header = dict[str, Any]


def read_json(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((CHECKPOINT / name).read_text(encoding="utf-8"))
    return document


def headers() -> dict[str, Header]:
    """Every shard's header by file name, without its metadata."""
    found = {}
    for path in sorted(CHECKPOINT.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        assert header.pop("__metadata__") == {"format": "pt"}
        end = max(entry["data_offsets"][1] for entry in header.values())
        assert path.stat().st_size == 8 + length + end
        found[path.name] = header
    return found


def tensors() -> Header:
    """Every tensor's header entry by name."""
    return {name: entry for header in headers().values() for name, entry in header.items()}


def figures() -> dict[str, Any]:
    """The last line of the training log: the weights as written, on everything held out."""
    last = (EXAMPLE / "training-log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    line: dict[str, Any] = json.loads(last)
    assert line["phase"] == "final"
    return line


def parameters(prefixes: tuple[str, ...]) -> int:
    return sum(math.prod(e["shape"]) for n, e in tensors().items() if n.startswith(prefixes))


def test_every_file_has_the_digest_that_is_committed_beside_it() -> None:
    lines = (EXAMPLE / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    promised = {name: digest for digest, name in (line.split("  ") for line in lines)}
    for name, digest in promised.items():
        assert hashlib.sha256((EXAMPLE / name).read_bytes()).hexdigest() == digest, name
    files = {f"checkpoint/{path.name}" for path in CHECKPOINT.iterdir()}
    assert set(promised) == files | {"arithmetic.jsonl", "calibration.jsonl", "training-log.jsonl"}


def test_the_example_takes_at_most_fifteen_megabytes() -> None:
    sizes = (p.stat().st_size for p in EXAMPLE.rglob("*") if "__pycache__" not in p.parts)
    assert sum(sizes) <= 15_000_000


def test_index_and_headers_of_at_least_four_shards_agree() -> None:
    index = read_json("model.safetensors.index.json")
    found = headers()
    assert len(found) >= 4
    assert index["weight_map"] == {n: file for file, header in found.items() for n in header}
    total = sum(e["data_offsets"][1] - e["data_offsets"][0] for e in tensors().values())
    assert index["metadata"]["total_size"] == total


def test_members_of_fused_groups_lie_in_different_shards() -> None:
    place = read_json("model.safetensors.index.json")["weight_map"]
    query, key, value = (place[f"{FULL_ATTENTION}{letter}_proj.weight"] for letter in "qkv")
    assert query != key == value
    mlp = "model.language_model.layers.1.mlp."
    assert place[mlp + "gate_proj.weight"] != place[mlp + "up_proj.weight"]


def test_every_tensor_is_bf16_and_named_as_on_the_hub() -> None:
    layer = r"layers\.\d\.(self_attn|linear_attn|mlp|input_layernorm|post_attention_layernorm)\."
    rules = (
        rf"model\.language_model\.({layer}|(embed_tokens|norm)\.weight$)",
        r"model\.visual\.(patch_embed|pos_embed|blocks|merger)\.",
        r"lm_head\.weight$",
        rf"mtp\.({layer}|(fc|norm|pre_fc_norm_embedding|pre_fc_norm_hidden)\.weight$)",
    )
    for name, entry in tensors().items():
        assert any(re.match(rule, name) for rule in rules), name
        assert entry["dtype"] == "BF16", name


def test_the_configuration_promises_what_is_there() -> None:
    config = read_json("config.json")
    text, names = config["text_config"], tensors()
    assert config["architectures"] == ["Qwen3_5ForConditionalGeneration"]
    assert config["model_type"] == "qwen3_5"
    assert text["mtp_num_hidden_layers"] == 1
    assert {n.split(".")[2] for n in names if n.startswith("mtp.layers.")} == {"0"}
    for layer, kind in enumerate(text["layer_types"]):
        part = "self_attn.q_proj" if kind == "full_attention" else "linear_attn.in_proj_qkv"
        assert f"model.language_model.layers.{layer}.{part}.weight" in names
    assert not config["tie_word_embeddings"]
    assert names["lm_head.weight"]["shape"] == [text["vocab_size"], text["hidden_size"]]
    assert config["vision_config"]["out_hidden_size"] == text["hidden_size"]


def test_the_text_model_has_two_to_six_million_parameters() -> None:
    assert 2e6 <= parameters(("model.language_model.", "lm_head.")) <= 6e6


def test_what_a_recipe_may_quantize_has_whole_blocks_of_128() -> None:
    role = re.compile(r"layers\.\d\.(self_attn|mlp)\.\w+_proj\.weight|in_proj_(qkv|z)|out_proj")
    quantized = {n: e["shape"] for n, e in tensors().items() if role.search(n)}
    assert len(quantized) == 4 * 3 + 4 + 3 * 3 + 7
    for name, shape in quantized.items():
        assert all(side % 128 == 0 for side in shape), name


def test_the_held_out_items_are_made_by_code_with_a_fixed_seed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pocket import arithmetic;"
        "arithmetic.write_held_out(Path(sys.argv[1]))"
    )
    made = tmp_path / "arithmetic.jsonl"
    subprocess.run([sys.executable, "-c", code, str(made)], cwd=EXAMPLE, check=True)
    committed = (EXAMPLE / "arithmetic.jsonl").read_bytes()
    assert made.read_bytes() == committed
    items = [json.loads(line) for line in committed.splitlines()]
    assert len({item["prompt"] for item in items}) == len(items) >= 500


def test_calibration_asks_what_is_trained_on_and_never_what_is_judged() -> None:
    code = "import json; from pocket import calibration; print(json.dumps(calibration.questions()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLE, check=True, capture_output=True, text=True
    )
    made = json.loads(done.stdout)
    lines = (EXAMPLE / "calibration.jsonl").read_text(encoding="utf-8").splitlines()
    committed = [json.loads(line) for line in lines]
    assert committed[: len(made)] == made
    assert {tuple(row) for row in committed} == {("text",), ("messages",)}
    held_out = (EXAMPLE / "arithmetic.jsonl").read_text(encoding="utf-8").splitlines()
    asked = "\n".join(lines)
    for item in map(json.loads, held_out):
        assert not re.search(rf"(?<!\d){re.escape(item['prompt'])}", asked)


def test_the_training_log_ends_with_figures_in_their_bands() -> None:
    final = figures()
    assert final["perplexity"] <= final["unigramPerplexity"] / 4
    assert 75 <= final["arithmeticPercent"] <= 95
    assert final["arithmeticItems"] >= 500


@pytest.mark.quantize_env
def test_transformers_scores_the_checkpoint_as_the_training_log_says() -> None:
    command = [str(python_of("quantize")), "score.py", "checkpoint", "--rows", "32"]
    done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, check=True)
    score = json.loads(done.stdout)
    final = figures()
    assert score["arithmeticItems"] == final["arithmeticItems"]
    # Another processor may round a few close calls the other way.
    assert score["arithmeticPercent"] == pytest.approx(final["arithmeticPercent"], abs=1.0)
    assert score["perplexity"] <= score["unigramPerplexity"] / 4
