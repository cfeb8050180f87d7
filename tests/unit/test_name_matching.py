"""A stranger's regular expressions: matched all at once, and given up where there is no end."""

import pytest

from halftone.checkpoint.name_matching import (
    MAX_EXPRESSION_CHARACTERS,
    MAX_EXPRESSIONS,
    NotMatchedError,
    answer,
    first_matches,
)
from halftone.checkpoint.serving_compressed_tensors import Patterns
from halftone.checkpoint.serving_rules import WillNotLoad

NAMES = [f"model.layers.{n}.self_attn.{part}_proj" for n in range(40) for part in "qkvo"]
# Each takes longer than the sun will last on the first of NAMES: nested, and one after another.
ENDLESS = [r"^([a-z0-9_]+\.?)+!$", r"(.|..|...)*!", ".*" * 12 + "!"]


def test_the_first_expression_that_matches_the_beginning_of_a_name_counts() -> None:
    expressions = [r"self_attn", r".*\.1\.", r".*k_proj$", r"model\.layers\.1\d\..*"]
    found = dict(zip(NAMES, first_matches(expressions, NAMES), strict=True))

    assert found["model.layers.1.self_attn.k_proj"] == 1
    assert found["model.layers.12.self_attn.k_proj"] == 2
    assert found["model.layers.12.self_attn.v_proj"] == 3
    assert found["model.layers.22.self_attn.v_proj"] is None


def test_the_child_answers_what_the_same_words_answer_here() -> None:
    expressions = [r".*\.(q|k|v)_proj$", r"re.*", "(?i)MODEL.*"]
    question = {"expressions": expressions, "names": NAMES}

    assert answer(question) == {"first": first_matches(expressions, NAMES)}


@pytest.mark.parametrize("expression", ENDLESS)
def test_an_expression_without_end_is_given_up_and_named(expression: str) -> None:
    with pytest.raises(NotMatchedError, match="was not judged; write names, or simpler") as told:
        first_matches(["lm_head", expression], NAMES, seconds=0.5)
    assert ascii(expression)[:100] in str(told.value)


def test_a_list_without_end_is_one_that_a_server_will_not_load() -> None:
    patterns = Patterns(["lm_head", f"re:{ENDLESS[0]}"], seconds=0.5)
    with pytest.raises(WillNotLoad, match="was not judged"):
        patterns.prepare(NAMES)


@pytest.mark.parametrize(
    "expression", ["(unclosed", "(" * 3000 + ")" * 3000, "a{99999999999999999999}", "[\ud800"]
)
def test_what_is_no_expression_is_named(expression: str) -> None:
    with pytest.raises(NotMatchedError, match="is not a regular expression: ") as told:
        first_matches(["lm_head", expression], NAMES)
    assert ascii(expression)[:20] in str(told.value)
    assert str(told.value).isprintable()


def test_a_list_longer_than_any_server_reads_is_given_up_unread() -> None:
    with pytest.raises(NotMatchedError, match=f"more than {MAX_EXPRESSIONS}"):
        first_matches(["a"] * (MAX_EXPRESSIONS + 1), NAMES)
    with pytest.raises(NotMatchedError, match="longer than"):
        first_matches(["a" * (MAX_EXPRESSION_CHARACTERS + 1)], NAMES)


def test_entries_count_in_their_order_whether_names_or_expressions() -> None:
    patterns = Patterns(["b", "re:a+", "aa", "re:b"])
    patterns.prepare(["a", "aa", "b", "c"])

    assert [patterns.first(name) for name in ("a", "aa", "b", "c", "aaa")] == [1, 1, 0, None, 1]
