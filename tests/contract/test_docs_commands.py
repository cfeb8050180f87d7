"""Commands in README.md, docs and the charts' READMEs: they run, or could.

We test these aspects:
- every block of commands says in an HTML comment above it `run`, or `not run:` and why;
- blocks that say `run` are run, a page in one folder, in order, and succeed;
- of all others each command parses: verbs, options, arguments and choices of `halftone` exist, so
  do options of Helm and kubectl, values of charts, targets of make, extras and modules;
- so do verbs and options in code spans, and fields of a QuantizationJob;
- a command that could not be run is found.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import ROOT
from tests.crd_schema import crd_schema, nodes
from tests.documented_commands import is_commands, problems, simple_commands, unknown_words
from tools.markdown_pages import Block, blocks, pages, without_fences
from tools.servers import program

# Pages on which each block needs the same, and says so here.
NOT_RUN: Final = {
    "docs/runbooks/": "a cluster in the state that the alert tells of",
    "docs/monitoring.md": "a cluster with Prometheus",
    "docs/doctor.md": "a Prometheus",
    "charts/halftone-monitoring/README.md": "a cluster with Prometheus",
    "docs/acceptance.md": "a GPU and the Hub",
    "docs/release.md": "an environment of 10 GB, and advisories from the network",
    "examples/06-swap-and-compare/": "two servers, or a cluster",
    "examples/07-reference-models/": "the Hub",
    "examples/08-air-gapped/": "a cluster with its own S3",
    "examples/09-whole-way/": "a cluster; `make e2e` goes the same way",
}
TEXTS: Final = {
    str(path.relative_to(ROOT)): path.read_text() for path in pages() if path.name != "CHANGELOG.md"
}
RUN, NOT = "run", "not run: "
TYPED: Final = [
    (name, block)
    for name, text in TEXTS.items()
    for block in blocks(text)
    if is_commands(block.language, block.text)
]
RUNNING: Final = sorted({name for name, block in TYPED if block.mark == RUN})


def reason(name: str, block: Block) -> str | None:
    """Why a block is not run."""
    whole = next((why for start, why in NOT_RUN.items() if name.startswith(start)), None)
    mark = block.mark or ""
    return mark.removeprefix(NOT) if mark.startswith(NOT) else whole


def test_every_block_of_commands_is_marked() -> None:
    unmarked = [
        f"{name}:{block.line}"
        for name, block in TYPED
        if (block.mark == RUN) == bool(reason(name, block))
    ]
    assert unmarked == [], "put `<!-- run -->` or `<!-- not run: why -->` above them"
    assert len(TYPED) > 50


def test_every_page_that_is_not_run_is_there() -> None:
    assert {one for one in NOT_RUN if not any(name.startswith(one) for name in TEXTS)} == set()


@pytest.mark.timeout(300)  # the first of them compiles kernels
@pytest.mark.parametrize("name", RUNNING)
def test_what_is_marked_runs(tmp_path: Path, name: str) -> None:
    for folder in ("charts", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "model").symlink_to(ROOT / "examples" / "pocket-model" / "checkpoint")
    path = f"{programs(tmp_path / 'bin')}:{os.environ['PATH']}"
    for block in blocks(TEXTS[name]):
        if block.mark != RUN:
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}:{block.line}: {done.stderr}"
        assert done.stdout, f"{name}:{block.line} says nothing"


def programs(folder: Path) -> Path:
    """A folder with the programs that blocks call."""
    folder.mkdir()
    (folder / "helm").symlink_to(program("helm"))
    (folder / "halftone").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m halftone "$@"\n')
    (folder / "halftone").chmod(0o755)
    return folder


@pytest.mark.parametrize("name", sorted({name for name, _ in TYPED}))
def test_what_is_not_run_could_be(name: str) -> None:
    found = {
        f"{name}:{block.line} {' '.join(words)}": wrong
        for where, block in TYPED
        if where == name
        for words in simple_commands(block.text)
        if (wrong := problems(words))
    }
    assert found == {}


SPANS: Final = [
    (name, span)
    for name, text in TEXTS.items()
    if not name.startswith("docs/reference/")
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_fences(text))
]


def test_what_is_named_in_a_sentence_exists() -> None:
    ours = [(name, span) for name, span in SPANS if re.match(r"halftone [a-z-]", span)]
    assert len(ours) > 50
    found = {f"{name} `{span}`": wrong for name, span in ours if (wrong := unknown_words(span))}
    assert found == {}
    made = [(name, span) for name, span in SPANS if re.fullmatch(r"make [a-z0-9 -]+", span)]
    assert made
    assert {f"{name} {span}" for name, span in made if problems(span.split())} == set()


def test_fields_that_are_named_exist() -> None:
    known = {re.sub(r"\[\]|\{\}", "", path) for path, _ in nodes(crd_schema())}
    told = {
        (name, span) for name, span in SPANS if re.fullmatch(r"(spec|status)(\.[a-z]\w*)+", span)
    }
    assert len(told) > 10
    assert {(name, span) for name, span in told if span not in known} == set()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("halftone plam model", "no verb `plam`"),
        ("halftone plan ./model --recipes x", "No such option"),
        ("halftone plan ./model", "`recipe` is missing"),
        ("halftone plan --recipe nvfp4a16", "`SOURCE` is missing"),
        ("halftone convert ./a ./b --to GGUF", "is not one of"),
        ("halftone convert ./a ./b ./c --to ModelOpt", "one argument too many"),
        ("halftone pipeline begin", "no verb `begin`"),
        ("make docz", "no target `docz`"),
        ("make docs doc", "no target `doc`"),
        ("helm install a charts/halftone-operator --set imag.registry=x", "imag"),
        ("helm install a charts/halftone-operators", "no chart"),
        ("helm install a charts/halftone-operator --namespac=x", "no option `--namespac`"),
        ("kubectl get qj --al-namespaces", "no option `--al-namespaces`"),
        ("kubectl create secret generic a --from-fil=b", "no option `--from-fil`"),
        ("pip install 'halftone[cluster,kubernetes]'", "no extra `kubernetes`"),
        ("python -m halftone.serve.wheights x", "no module"),
        ("true && podman ps | head", "nobody knows the program `true`"),
        ("true && podman ps | head", "nobody knows the program `podman`"),
    ],
)
def test_a_command_that_could_not_be_run_is_found(line: str, told: str) -> None:
    found = [one for words in simple_commands(line) for one in problems(words)]
    assert any(told in one for one in found), found


def test_a_word_in_a_sentence_that_does_not_exist_is_found() -> None:
    assert unknown_words("halftone doctr --prometheus") == ["doctr"]
    assert unknown_words("halftone doctor --prometeus URL") == ["--prometeus"]
    assert unknown_words("halftone pipeline compile|submit|status") == ["compile|submit|status"]
    assert unknown_words("halftone verify … --rebuild 20") == []


def test_a_line_is_cut_as_a_shell_cuts_it() -> None:
    text = (
        "A=1 curl -s URL > file && halftone doctor \\\n  --all  # look\nkubectl get pods | tail &"
    )
    assert simple_commands(text) == [
        ["curl", "-s", "URL"],
        ["halftone", "doctor", "--all"],
        ["kubectl", "get", "pods"],
        ["tail"],
    ]
