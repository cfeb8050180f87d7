"""The model card: what it states, and that it states nothing that the documents do not.

We test these aspects: base model, licence and results in the front matter; verdict on top; sizes,
kept roles, calibration data and gates in the text; a recipe that can be used again; text from
outside that is no markup. What the Hub's own parser makes of it is in
`tests/contract/test_model_card.py`.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from halftone.publish.card.explanations import FORMATS_IN_WORDS, why_kept
from halftone.spec.calibration import Modality
from halftone.spec.formats import Format
from halftone.spec.job import Recipe
from halftone.spec.presentation import DIVERGENCE_CAVEAT, VERDICT_MEANINGS
from halftone.spec.recipes import load_recipe
from halftone.spec.reports import Verdict
from halftone.spec.roles import Role
from halftone.spec.statistics import MeasuredData
from halftone.spec.targets import Publish
from tests.carding import (
    QWEN,
    TO_A_BUCKET,
    TO_A_DIRECTORY,
    TO_THE_HUB,
    Documents,
    documents_of,
    written,
)
from tests.reporting import evidence_of, measured, unmeasured


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return documents_of(tmp_path_factory.mktemp("card"))


def test_a_repository_of_the_hub_is_the_base_model(documents: Documents) -> None:
    card = written(documents.from_the_hub())
    assert card.fields["base_model"] == "Qwen/Qwen3.6-27B"
    assert card.fields["base_model_relation"] == "quantized"
    assert "https://huggingface.co/Qwen/Qwen3.6-27B" in card.text
    assert "0" * 40 in card.text


def test_a_directory_has_the_base_model_that_its_card_names(documents: Documents) -> None:
    card = written(documents, source_card="---\nbase_model: [org/one]\n---\n")
    assert card.fields["base_model"] == "org/one"
    assert "what the source's own card names" in card.text


def test_a_bare_directory_has_no_base_model_and_the_card_says_so(documents: Documents) -> None:
    card = written(documents, source_card=None)
    assert card.fields.keys().isdisjoint({"base_model", "base_model_relation", "language"})
    assert "states no `base_model`" in card.text


def test_a_path_of_the_machine_is_not_told(documents: Documents) -> None:
    assert documents.plan.source is not None
    card = written(documents)
    assert str(Path(documents.plan.source.uri).parent) not in card.data.decode()


def test_data_that_scales_were_measured_on_are_told_by_name(documents: Documents) -> None:
    plain = written(documents)
    assert "calibrated on" not in plain.text
    assert "--statistics" not in plain.text
    rows = (
        data_row("/home/somebody/private/rows.jsonl", Modality.Text),
        data_row("hf://datasets/org/set@main", Modality.Image, revision="f" * 40, images=3),
    )
    report = measured(documents.plan, documents.checkpoint, {}, calibration=rows)
    card = written(documents, report=report, evidence={})
    assert "| `rows.jsonl` | Text | 8 of 1,200 | 4,321 | 0 | 2 |" in card.text
    name = f"`hf://datasets/org/set@main at {'f' * 40}`"
    assert f"| {name} | Image | 8 of 1,200 | 4,321 | 3 | 2 |" in card.text
    assert all(row.sha256 in card.text for row in rows)
    assert "somebody" not in card.text
    assert "--statistics calibration" in card.text


def data_row(uri: str, modality: Modality, **changed: Any) -> MeasuredData:
    fields: dict[str, Any] = {"revision": None, "usable": 1200, "samples": 8, "truncated": 2}
    fields |= {"tokens": 4321, "images": 0, "sha256": modality.lower()[0] * 64}
    return MeasuredData(modality=modality, uri=uri, coders="c" * 64, **fields | changed)


def test_fields_of_the_source_are_carried_over(documents: Documents) -> None:
    fields = written(documents).fields
    assert fields["license"] == "apache-2.0"
    assert fields["language"] == ["en", "de"]
    assert fields["pipeline_tag"] == "image-text-to-text"
    assert fields["tags"] == ["compressed-tensors", "nvfp4", "w4a16", "halftone"]


@pytest.mark.parametrize(
    "source_card",
    [
        "",
        "no front matter",
        "---\n- a list\n---\n",
        "---\nlicense: {a: b}\nlanguage: 7\nbase_model: ../../etc/passwd\n---\n",
        "---\nlicense: 'no: good\n---\n",
        '---\nlicense: "a\\nb"\nbase_model: "[x](y)"\n---\n',
        "---\ndate: 2026-99-99\n---\n",
        "---\ngated: !!bool perhaps\n---\n",
        "---\nsize: !!int ''\n---\n",
        "---\n" + "[" * 500 + "\n---\n",
    ],
)
def test_a_source_card_that_says_nothing_usable_adds_nothing(
    documents: Documents, source_card: str
) -> None:
    card = written(documents, source_card=source_card)
    assert card.fields["license"] == "apache-2.0"  # what the plan found
    assert "base_model" not in card.fields


@pytest.mark.parametrize(
    ("source_card", "found", "expected"),
    [
        ("---\nlicense: agpl-3.0\n---\n", "agpl-3.0", ("agpl-3.0", None, None)),
        (
            "---\nlicense: other\nlicense_name: qwen\nlicense_link: LICENSE\n---\n",
            "other",
            ("other", "qwen", "LICENSE"),
        ),
        (
            "---\nlicense: other\nlicense_name: qwen\nlicense_link: https://example.com/x\n---\n",
            "other",
            ("other", "qwen", "https://example.com/x"),
        ),
        ("---\nlicense: our-own-1.0\n---\n", "our-own-1.0", ("other", "our-own-1.0", "LICENSE")),
        (None, "LICENSE", ("other", "see-licence-file", "LICENSE")),
        (None, None, (None, None, None)),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit", (["mit", "apache-2.0"], None, None)),
        ("---\nlicense: [mit, {a: b}]\n---\n", "mit, other", (["mit", "other"], None, None)),
    ],
)
def test_the_licence_follows_the_weights(
    documents: Documents,
    source_card: str | None,
    found: str | None,
    expected: tuple[str | list[str] | None, str | None, str | None],
) -> None:
    fields = written(documents.licensed(found), source_card=source_card).fields
    names = ("license", "license_name", "license_link")
    assert tuple(fields.get(name) for name in names) == expected


def test_a_licence_file_that_stays_behind_is_linked_at_its_source(documents: Documents) -> None:
    given = documents.licensed("other", carried=False).from_the_hub("org/base")
    source_card = "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n"
    link = written(given, source_card=source_card).fields["license_link"]
    assert link == f"https://huggingface.co/org/base/blob/{'0' * 40}/LICENSE"


def test_what_a_licence_asks_is_said(documents: Documents) -> None:
    text = written(documents.licensed("agpl-3.0"), source_card="---\nlicense: agpl-3.0\n---\n").text
    assert "the source is under `agpl-3.0`, which asks whoever offers the model" in text
    assert "Its text is in `LICENSE`." in text


def test_no_licence_gives_no_right(documents: Documents) -> None:
    text = written(documents.licensed(None, carried=False), source_card=None).text
    assert "Nothing here gives you a right to use these weights" in text


def test_results_are_the_raw_scores_of_the_quantized_model(documents: Documents) -> None:
    assert written(documents).fields["model-index"] == [
        {
            "name": "small-nvfp4",
            "results": [
                {
                    "task": {"type": "text-generation"},
                    "dataset": {"type": "arithmetic", "name": "arithmetic"},
                    "metrics": [{"type": "exact_match", "name": "exact_match", "value": 0.887}],
                }
            ],
        }
    ]


def test_an_unmeasured_artifact_says_so_on_top(documents: Documents) -> None:
    report = unmeasured(documents.plan, documents.checkpoint)
    card = written(documents, report=report, evidence={})
    assert "model-index" not in card.fields
    assert card.text.index("**Unmeasured.**") < card.text.index("## What is quantized")
    assert VERDICT_MEANINGS[Verdict.Unmeasured] in card.text
    assert "no model was loaded" in card.text
    assert DIVERGENCE_CAVEAT not in card.text


def test_an_emulated_verdict_says_what_that_means(documents: Documents) -> None:
    text = written(documents).text
    assert VERDICT_MEANINGS[Verdict.Emulated] in text
    assert "(emulated)" in text


def test_both_ratios_are_stated_in_both_units(documents: Documents) -> None:
    assert documents.plan.sizes is not None
    text, sizes = written(documents).text, documents.plan.sizes
    assert f"| {sizes.whole.ratio}× |" in text
    assert f"| {sizes.quantized.ratio}× |" in text
    assert len(re.findall(r"\d MB \([\d.]+ MiB\)", text)) == 5


def test_every_role_of_the_plan_is_quantized_or_kept_with_a_reason(documents: Documents) -> None:
    text = written(documents).text
    for line in documents.plan.roles:
        format_or_reason = f"`{line.format}`" if line.format else why_kept(line.role, False)
        rows = [row for row in text.splitlines() if row.startswith(f"| {line.role} |")]
        assert any(format_or_reason in row for row in rows), line.role


def test_every_role_has_a_reason_and_every_format_words() -> None:
    assert all(why_kept(role, named) for role in Role for named in (False, True))
    assert FORMATS_IN_WORDS.keys() == set(Format)


def test_every_gate_stands_there_with_its_numbers(documents: Documents) -> None:
    plan, checkpoint, _ = documents
    report, text = (
        measured(plan, checkpoint, evidence_of(plan, checkpoint)),
        written(documents).text,
    )
    rows = {row.split(" | ")[0][2:]: row for row in text.splitlines() if row.startswith("| ")}
    for gate in report.gates:
        for part in (gate.metric.value, gate.limit, gate.sourceScore, gate.quantizedScore):
            assert part is None or part in rows[gate.name], gate.name
    assert "99.67 to 100.11 (90 %)" in rows["arithmetic"]
    assert DIVERGENCE_CAVEAT in text
    assert "requests at once: 32 (83.1 %)" in text


def test_the_recipe_in_the_card_is_the_recipe_of_the_plan(
    documents: Documents, tmp_path: Path
) -> None:
    found = re.search(r"```yaml\n(.*?)\n```", written(documents).text, re.DOTALL)
    assert found is not None
    path = tmp_path / "recipe.yaml"
    path.write_text(found[1])
    recipe: Recipe = load_recipe(str(path))
    assert documents.plan.recipe is not None
    assert recipe.model_copy(update={"name": ""}) == documents.plan.recipe.model_copy(
        update={"name": ""}
    )


def test_the_commands_name_the_pinned_source(documents: Documents) -> None:
    text = written(documents.from_the_hub("org/base")).text
    assert f"halftone quantize hf://org/base@{'0' * 40} ./checkpoint" in text
    assert f"--rebuild 8 --source hf://org/base@{'0' * 40}" in text
    assert documents.checkpoint.digest in text


@pytest.mark.parametrize(
    ("publish", "model", "uri"),
    [
        (TO_THE_HUB, "org/small-nvfp4", "hf://org/small-nvfp4"),
        (TO_A_BUCKET, "./model", "s3://models/small-nvfp4"),
        (TO_A_DIRECTORY, "'/models/small nvfp4'", "'/models/small nvfp4'"),
    ],
    ids=["hub", "bucket", "directory"],
)
def test_commands_fit_where_the_artifact_goes(
    documents: Documents, publish: Publish, model: str, uri: str
) -> None:
    card = written(documents, publish)
    assert card.commands
    assert all(line.startswith(f"vllm serve {model}") for line in card.commands)
    assert f"halftone verify {uri}\n" in card.text
    assert ("Copy the artifact to `./model` first." in card.text) == (publish is TO_A_BUCKET)


def test_messages_of_gates_are_no_markup(documents: Documents) -> None:
    plan, checkpoint, _ = documents
    given = measured(plan, checkpoint, evidence_of(plan, checkpoint))
    hostile = "a | b\n\n# title <script>alert(1)</script> [x](y) `z` *w*"
    gates = tuple(gate.model_copy(update={"message": hostile}) for gate in given.gates)
    report = given.model_copy(update={"message": hostile, "gates": gates})
    text = written(documents, report=report).text
    assert "<script>" not in text
    assert "\n# title" not in text
    assert "[x](y)" not in text.replace("\\[x\\](y)", "")
    assert r"a \| b \# title \<script\>" in text


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("https://a.b/![x](https://evil/y.png)", "<https://a.b/![x](https://evil/y.png)>"),
        ("https://example.com/a_b", "<https://example.com/a_b>"),
    ],
)
def test_the_licences_address_is_a_link_to_itself_and_no_other_markup(
    link: str, shown: str, documents: Documents
) -> None:
    source_card = f"---\nlicense: other\nlicense_name: own\nlicense_link: '{link}'\n---\n"
    text = written(documents.licensed("other", carried=False), source_card=source_card).text
    assert f"Its text: {shown}." in text


def test_a_field_that_ends_in_a_new_line_is_not_of_the_form_that_is_asked_for(
    documents: Documents,
) -> None:
    card = '---\nbase_model: "org/one\\n"\npipeline_tag: |\n  text\n---\n'
    fields = written(documents, source_card=card).fields
    assert "base_model" not in fields
    assert fields["pipeline_tag"] == "image-text-to-text"  # from the plan


def test_equal_documents_give_equal_bytes(documents: Documents) -> None:
    assert written(documents).data == written(documents).data


def test_the_card_ends_with_one_newline_and_has_no_gap_of_three_lines(
    documents: Documents,
) -> None:
    cards = [
        written(documents, source_card=None),
        written(documents.from_the_hub(), TO_A_BUCKET, QWEN),
        written(documents, report=unmeasured(documents.plan, documents.checkpoint), evidence={}),
    ]
    for card in cards:
        assert card.data.endswith(b"\n")
        assert not card.data.endswith(b"\n\n")
        assert b"\n\n\n\n" not in card.data
        for line in card.commands:
            assert shlex.split(line)[:2] == ["vllm", "serve"]


def test_a_load_at_which_nothing_is_decided_is_not_called_slower(documents: Documents) -> None:
    plan, checkpoint, _ = documents
    evidence = evidence_of(plan, checkpoint)
    undecided = {"lower": 70.0, "upper": 102.0}
    loads = [load | {"interval": undecided} for load in evidence["speed"]["loads"]]
    text = written(documents, evidence=evidence | {"speed": {"loads": loads}}).text
    assert "slower than its source" not in text
