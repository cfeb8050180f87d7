"""`make release-check` and `make audit`: what they find in this checkout, and that they find it.

We test these aspects:
- a file that was changed, and one that git does not know, are told;
- wheel and sdist hold the package and no more, lack nothing, are whole to an index, and the sdist
  builds the same wheel; a strange file, a missing one and another wheel are told;
- charts are packaged with the one version and hold nothing of the tests; another version, a pinned
  tag and a changelog without a heading are told;
- a bill for each image, as its Dockerfile has it: packages taken out are not in it, kfp and
  Debian's are, what is not known is said; a list of a built image's packages goes in whole, and
  where Python finds others inside that is told;
- every licence of what is installed here has been judged; an unknown one and a package that nobody
  could read are told, and nothing of that passes;
- an audit asks first for a package with known holes, and does not run where nothing is known of it
  or nobody answers; a hole, a skipped package and one that was left out are told.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import HeaderParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from halftone import __version__
from tests.conftest import ROOT
from tools import images
from tools.release import advisories, bills, checkout, distributions, licences, packaged


def test_what_no_tag_would_hold_is_told(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.example")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "chart.yaml").write_text("version: 1\n")
    git("add", ".")
    git("commit", "-m", "one")
    assert checkout.problems(tmp_path) == []
    (tmp_path / "chart.yaml").write_text("version: 2\n")
    assert [line.split()[0] for line in checkout.problems(tmp_path)] == ["chart.yaml"]
    for number in range(20):
        (tmp_path / f"new-{number:02}").touch()
    told = checkout.problems(tmp_path)
    assert len(told) == 11
    assert told[-1] == "11 more files are not as they were committed."


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return distributions.build(tmp_path_factory.mktemp("dist"))


def test_wheel_and_sdist_are_right(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    assert distributions.problems(wheel, sdist) == []
    names = distributions.wheel_names(wheel)
    assert {name.split("/")[0] for name in names} == {
        "halftone",
        f"halftone-{__version__}.dist-info",
    }
    assert "halftone/recipes/nvfp4a16.yaml" in names
    folders = {name.split("/")[0] for name in distributions.sdist_names(sdist) if "/" in name}
    assert folders == {"src"}


def test_a_strange_file_and_another_wheel_are_told(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    wheel = Path(shutil.copy(built[0], tmp_path))
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tests/secret.txt", "x")
    told = distributions.problems(wheel, built[1])
    assert any("holds tests/secret.txt" in line for line in told)
    assert any("builds a wheel that is not" in line for line in told)


def test_a_missing_file_and_bad_metadata_are_told(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel = tmp_path / built[0].name
    with zipfile.ZipFile(built[0]) as whole, zipfile.ZipFile(wheel, "w") as part:
        for name in whole.namelist():
            if name.endswith("/METADATA"):
                part.writestr(name, "Metadata-Version: 2.4\nName: halftone\n")
            elif name != "halftone/recipes/nvfp4a16.yaml":
                part.writestr(name, whole.read(name))
    told = distributions.problems(wheel, built[1])
    assert any("lacks src/halftone/recipes/nvfp4a16.yaml" in line for line in told)
    assert any(line.startswith("twine does not take the metadata") for line in told)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return packaged.package(tmp_path_factory.mktemp("charts"))


def test_charts_are_packaged_with_the_one_version(archives: list[Path]) -> None:
    assert packaged.problems(archives) == []
    assert packaged.version_problems() == []
    assert len(archives) == 3
    for archive in archives:
        names = packaged.chart_names(archive)
        assert not [name for name in names if "/tests/" in name and "/templates/" not in name]
        with tarfile.open(archive) as opened:
            chart = opened.extractfile(f"{names[0].split('/')[0]}/Chart.yaml")
            assert chart is not None
            assert f"version: {__version__}\n" in chart.read().decode()


def test_a_chart_that_is_missing_or_holds_more_is_told(
    archives: list[Path], tmp_path: Path
) -> None:
    assert any("There is no" in line for line in packaged.problems(archives[1:]))
    strange = tmp_path / archives[0].name
    (tmp_path / "x").write_text("x")
    with tarfile.open(strange, "w:gz") as archive:
        archive.add(tmp_path / "x", "halftone-endpoint/notes-of-somebody/x")
    told = packaged.problems([strange, *archives[1:]])
    assert told == [
        f"{strange.name} holds notes-of-somebody, which a chart has no use for.",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("Chart.yaml", f"appVersion: {__version__}", "appVersion: 9.9.9", "`appVersion` 9.9.9"),
        ("Chart.yaml", f"\nversion: {__version__}", "\nversion: 9.9.9", "`version` 9.9.9"),
        ("values.yaml", '  tag: ""', '  tag: "9.9.9"', "pins the tag '9.9.9'"),
    ],
)
def test_another_version_is_told(file: str, old: str, new: str, told: str, tmp_path: Path) -> None:
    chart = tmp_path / "halftone-endpoint"
    shutil.copytree(packaged.CHARTS[0], chart)
    text = (chart / file).read_text()
    assert old in text
    (chart / file).write_text(text.replace(old, new, 1))
    (line,) = packaged.version_problems([chart])
    assert told in line


@pytest.mark.parametrize("heading", ["", "## 0.0.1\n"])
def test_a_changelog_of_something_else_is_told(heading: str) -> None:
    assert packaged.version_problems(changelog=f"# Changelog\n\n{heading}") != []
    assert packaged.version_problems(changelog=f"## {__version__} - 2026-12-01\n") == []


def test_images_get_the_version_and_charts_ask_for_it() -> None:
    assert images.version() == __version__
    for dockerfile in (ROOT / "images").glob("*/Dockerfile"):
        assert 'image.version="${VERSION}"' in dockerfile.read_text()
    told = (ROOT / "docs" / "acceptance.md").read_text()
    assert f"halftone-endpoint:{__version__}" in told


# The whole of the larger ones takes a minute to write and to validate: `make release-check` does.
SMALL = ("halftone-operator", "halftone-task")


def test_there_are_parts_for_each_image_as_its_dockerfile_has_them() -> None:
    assert bills.PARTS.keys() == images.IMAGES.keys()
    for name, parts in bills.PARTS.items():
        image = images.IMAGES[name]
        text = image.dockerfile.read_text().replace("\\\n", " ")
        assert f"requirements/{parts.requirements}.txt" in text
        taken = {
            word
            for line in re.findall(r"uv pip uninstall ([^&\n]*)", text)
            for word in line.split()
            if not word.startswith(("-", "/"))
        }
        assert set(parts.without) <= taken
        last = text[text.index(f" AS {image.target}\n") :].split("\nFROM ")[0]
        assert ("--from=kfp" in last) is parts.kfp
        asked = " ".join(re.findall(r"apt-get install ([^>&]*)", text)).replace(")", " ").split()
        assert set(parts.debian) <= set(asked)
        assert bool(parts.debian) is bool(asked)


@pytest.mark.parametrize("name", SMALL)
def test_a_bill_holds_what_the_image_does(name: str, tmp_path: Path) -> None:
    path = bills.write(name, tmp_path)
    bill = json.loads(path.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["version"]) == (
        "CycloneDX",
        __version__,
    )
    held = {one["name"]: one.get("version") for one in bill["components"]}
    assert held["halftone"] == __version__
    assert not held.keys() & set(bills.PARTS[name].without)
    assert ("kfp" in held) is bills.PARTS[name].kfp
    assert held["pydantic"] is not None
    (missing,) = bill["metadata"]["properties"]
    assert missing["name"] == "notListed"
    assert "base image" in missing["value"]


def test_packages_of_a_built_image_are_all_listed(tmp_path: Path) -> None:
    listed = tmp_path / "dpkg.txt"
    listed.write_text("libc6:amd64\t2.36-9\nbase-files\t12.4\n")
    bill = bills.completed({"components": [], "metadata": {}}, "halftone-operator", listed)
    held = {one["name"]: one.get("purl") for one in bill["components"]}
    assert held["libc6"] == "pkg:deb/debian/libc6@2.36-9"
    assert "base image" not in bill["metadata"]["properties"][0]["value"]


def test_a_bill_is_held_against_a_built_image() -> None:
    name = "halftone-operator"
    pins = [line.split(" --hash")[0] for line in bills.requirements_of(name).splitlines()]
    inside = [f"halftone=={__version__}", *(pin.replace("pyyaml", "PyYAML") for pin in pins)]
    assert bills.differences(name, "\n".join(inside) + "\n") == []
    inside.remove(next(pin for pin in inside if pin.startswith("httpx==")))
    told = bills.differences(name, "\n".join([*inside, "numpy==2.0"]))
    assert told[0] == f"{name} has numpy 2.0, and its bill has not."
    assert told[1].startswith(f"The bill of {name} has httpx ")
    assert len(told) == 2


def test_what_debian_brings_is_named_without_a_version() -> None:
    names = [one["name"] for one in bills.debian_packages("halftone-endpoint", None)]
    assert names == list(bills.PARTS["halftone-endpoint"].debian)
    assert not any("version" in one for one in bills.debian_packages("halftone-endpoint", None))


def test_only_what_linux_gets_is_listed() -> None:
    for name in bills.PARTS:
        lines = bills.requirements_of(name).splitlines()
        assert lines
        assert all("--hash=sha256:" in line and ";" not in line for line in lines)
        pins = [line.split("==")[0] for line in lines]
        assert len(pins) == len(set(pins))


def test_every_licence_of_what_is_installed_has_been_judged() -> None:
    found = licences.licensed()
    assert [(one.name, one.licence) for one in found if one.licence and not one.terms] == []
    # What the images without torch hold is installed wherever tests run.
    small = [one for one in found if set(one.images) & set(SMALL)]
    assert len(small) > 50
    assert [one.name for one in small if one.licence is None] == []
    assert {one.licence for one in found if one.name == "vllm"} == {"Apache-2.0"}


def test_a_licence_that_nobody_judged_and_a_package_that_nobody_read_do_not_pass(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "site-packages"
    lines = {"pydantic": "License-Expression: CC-BY-NC-4.0", "click": "License: MIT"}
    lines["httpx"] = "License: MIT"
    versions = {one.name: one.version for one in licences.licensed([])} | {"httpx": "0.1"}
    for name, line in lines.items():
        info = folder / f"{name}-{versions[name]}.dist-info"
        info.mkdir(parents=True)
        head = f"Metadata-Version: 2.4\nName: {name}\nVersion: {versions[name]}\n"
        (info / "METADATA").write_text(f"{head}{line}\n\nText\n")
    found = {one.name: one for one in licences.licensed([folder])}
    assert (found["pydantic"].licence, found["pydantic"].terms) == ("CC-BY-NC-4.0", None)
    assert (found["click"].licence, found["click"].terms) == ("MIT", "Notice")
    # Another version may have another licence.
    assert (found["httpx"].licence, found["httpx"].terms) == (None, None)
    told = licences.told(list(found.values()))
    assert "pydantic" in told[0]
    assert "'CC-BY-NC-4.0', which nobody has judged" in told[0]
    assert told[-1].startswith("NOT CHECKED: ")


def test_a_licence_is_read_where_it_is_said_best(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("\n  Some Licence\n\nText")
    for lines, wanted in {
        "License-Expression: MIT\nLicense: x": "MIT",
        "License: y\nClassifier: License :: OSI Approved :: BSD License": "BSD License",
        "License: ISC\nClassifier: License :: OSI Approved": "ISC",
        "License: Copyright\n        of many lines": "Some Licence",
    }.items():
        text = HeaderParser().parsestr(f"Name: a\n{lines}\n")
        assert licences.stated(text, tmp_path) == wanted


VULNERABILITY = {
    "id": "GHSA-462w-v97r-4m45",
    "modified": "2026-01-01T00:00:00Z",
    "published": "2019-04-10T00:00:00Z",
    "aliases": ["CVE-2019-10906"],
    "summary": "A way out of the sandbox",
    "details": "…",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI", "purl": "pkg:pypi/jinja2"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.10.1"}]}],
        }
    ],
}


@contextmanager
def service(*known: str) -> Iterator[advisories.Service]:
    """OSV's interface on loopback; it has one advisory, of `known` versions of jinja2."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            is_known = asked["package"]["name"] == "jinja2" and asked["version"] in known
            body = json.dumps({"vulns": [VULNERABILITY]} if is_known else {}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield advisories.Service("osv", f"http://127.0.0.1:{server.server_port}/v1/query")
        finally:
            server.shutdown()


def test_an_audit_asks_first_for_what_everybody_knows(tmp_path: Path) -> None:
    pinned = tmp_path / "some.txt"
    pinned.write_text("click==8.2.0\njinja2==2.9\n")
    with service("2.10", "2.9") as osv:
        advisories.require_advisories(osv)
        (told,) = advisories.problems(pinned, osv)
    assert told.startswith("some.txt: jinja2 2.9 has ")
    assert told.endswith("mended in 2.10.1.")
    with service() as silent, pytest.raises(advisories.NoAdvisories, match="Nothing was audited"):
        advisories.require_advisories(silent)


def test_what_another_python_installs_is_asked_for_as_well(tmp_path: Path) -> None:
    pins = tmp_path / "some.txt"
    here = "python_full_version >= '3.11'"
    pins.write_text(
        f"click==8.2.0 ; {here}\njinja2==2.9 ; python_full_version < '3.11'\n"
        f"jinja2==2.10 ; {here} \\\n    --hash=sha256:{'0' * 64}\n"
    )
    with service("2.10", "2.9") as osv:
        told = advisories.problems(pins, osv)
    assert [line.split(" has ")[0] for line in told] == [
        "some.txt: jinja2 2.9",
        "some.txt: jinja2 2.10",
    ]


def test_an_audit_that_reaches_nobody_does_not_run() -> None:
    nobody = "http://127.0.0.1:9/v1/query"
    ran = subprocess.run(
        [sys.executable, "-m", "tools.release", "audit", "--osv-url", nobody],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 3
    assert "NOT RUN, and nothing counts as audited" in ran.stderr
    assert ran.stdout == ""


def test_what_was_skipped_or_left_out_is_told() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "a", "version": "1", "vulns": []},
        {"name": "b", "skip_reason": "Dependency not found"},
    ]
    assert advisories.judged("x.txt", {("a", "1"), ("b", "1"), ("c", "1"), ("a", "2")}, rows) == [
        "x.txt: b was skipped: Dependency not found",
        "x.txt: a 2 was not looked at.",
        "x.txt: c 1 was not looked at.",
    ]
    assert advisories.judged("x.txt", {("a", "1")}, rows[:1]) == []


def test_every_file_of_pins_that_an_image_or_a_developer_gets_is_audited() -> None:
    assert {parts.requirements for parts in bills.PARTS.values()} <= set(advisories.AUDITED)
    assert {"dev", "bootstrap", "task", "quantize-dev"} <= set(advisories.AUDITED)
