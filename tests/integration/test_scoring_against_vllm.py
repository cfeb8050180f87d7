"""Scoring fixed token ids is exact: the numbers are those of vLLM's whole vocabulary.

`tests/peers/vllm_scoring.py` loads the pocket model once. We test these aspects:
- the source's top ids and their log probabilities are the largest of the whole vocabulary
- ids that are asked for get their own row's numbers, also where a prompt is computed in parts
- the token that the prompt itself has, and the likeliest one, are those of the whole vocabulary
- the divergence from truncated answers is at most that of whole ones, and equal for all ids
- a picture's placeholders are left out, and what stands after it is scored
- the model against itself, in other batches, is at the noise floor
"""

from typing import Any

import numpy as np
import pytest

from halftone.validate.gates.token_divergence import token_divergence
from halftone.validate.serving.prompts import prompt_set
from tests.conftest import ROOT
from tests.environments import ask

pytestmark = pytest.mark.serve_env

MODEL = ROOT / "examples" / "pocket-model" / "checkpoint"
TOP = 8
IMAGE_PLACEHOLDER = 5  # of the pocket model's `config.json`
ASKED = ("binary-search", "sums", "chinese", "shapes-question")
LONG = "chinese"  # a token for nearly every byte, so more than four parts of 64


@pytest.fixture(scope="module")
def prompts() -> list[dict[str, str]]:
    return [row for row in prompt_set(None, sees=True).rows if row["id"] in ASKED]


@pytest.fixture(scope="module")
def said(prompts: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The peer's answers."""
    work = tmp_path_factory.mktemp("scoring")
    request = {"model": str(MODEL), "prompts": prompts, "topK": TOP, "tokenBudget": 64}
    answer: dict[str, Any] = ask("serve", "vllm_scoring.py", request, work=work, timeout_s=280)
    return answer


def rows(said: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in said[part]["prompts"]}


@pytest.mark.parametrize("name", ASKED[:-1])
def test_the_top_ids_are_the_largest_of_the_whole_vocabulary(
    said: dict[str, Any], name: str
) -> None:
    row, whole = rows(said, "score")[name], np.array(said["whole"][name])
    assert row["positions"] == list(range(1, len(row["tokens"])))
    assert len(whole) == len(row["positions"])
    np.testing.assert_allclose(row["logprobs"], -np.sort(-whole, axis=1)[:, :TOP], atol=1e-5)
    found = np.take_along_axis(whole, np.array(row["ids"]), axis=1)
    np.testing.assert_allclose(row["logprobs"], found, atol=1e-5)


@pytest.mark.parametrize("name", ASKED[:-1])
def test_asked_ids_get_the_numbers_of_their_own_position(said: dict[str, Any], name: str) -> None:
    row, whole = rows(said, "follow")[name], np.array(said["whole"][name])
    ids, tokens = rows(said, "score")[name]["ids"], rows(said, "score")[name]["tokens"]
    expected = np.take_along_axis(whole, np.array(ids), axis=1)
    np.testing.assert_allclose(row["logprobs"], expected, atol=1e-5)
    own = whole[np.arange(len(whole)), tokens[1:]]
    np.testing.assert_allclose(row["targets"], own, atol=1e-5)
    np.testing.assert_allclose(row["bestLogprobs"], whole.max(axis=1), atol=1e-5)
    chosen = whole[np.arange(len(whole)), row["best"]]
    np.testing.assert_allclose(chosen, whole.max(axis=1), atol=1e-5)


def test_the_long_prompt_was_computed_in_parts(said: dict[str, Any]) -> None:
    assert len(rows(said, "score")[LONG]["tokens"]) > 3 * 64


@pytest.mark.parametrize("name", ASKED[:-1])
def test_truncated_divergence_is_at_most_the_whole_one(said: dict[str, Any], name: str) -> None:
    """Against an invented other model, whose whole vocabulary we know."""
    every, top = rows(said, "every")[name], rows(said, "score")[name]
    whole = np.array(said["whole"][name])
    assert said["every"]["topK"] == said["every"]["vocabulary"] == whole.shape[1]
    other = whole + np.random.default_rng(7).normal(0, 0.3, whole.shape)
    other -= np.log(np.exp(other).sum(axis=1, keepdims=True))
    exact = (np.exp(whole) * (whole - other)).sum(axis=1)

    def asked(row: dict[str, Any]) -> dict[str, Any]:
        return {"logprobs": np.take_along_axis(other, np.array(row["ids"]), axis=1)}

    np.testing.assert_allclose(
        token_divergence(every, asked(every), whole.shape[1]), exact, atol=1e-5
    )
    truncated = token_divergence(top, asked(top), whole.shape[1])
    assert (truncated <= exact + 1e-5).all()
    assert truncated.mean() > 0.3 * exact.mean()


def test_a_pictures_placeholders_are_not_scored_and_the_question_is(said: dict[str, Any]) -> None:
    row = rows(said, "score")["shapes-question"]
    tokens = np.array(row["tokens"])
    assert (tokens == IMAGE_PLACEHOLDER).sum() > 10
    assert (tokens[row["positions"]] != IMAGE_PLACEHOLDER).all()
    assert len(row["positions"]) == (tokens != IMAGE_PLACEHOLDER).sum() - 1
    assert "".join(row["pieces"]).count("shapes") == 1


def test_the_model_against_itself_is_at_the_noise_floor(said: dict[str, Any]) -> None:
    batched = rows(said, "batched")
    for name, row in rows(said, "score").items():
        noise = token_divergence(row, batched[name], said["score"]["vocabulary"])
        assert noise.mean() < 1e-3
