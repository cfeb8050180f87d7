"""The plugin of vLLM without vLLM: what it needs is checked before anything is changed.

We test these aspects:
- importing the room loads neither torch nor vLLM
- a name that is gone, a parameter that is gone and a module that is gone are each named, with the
  version found and the one to install
- a table whose names are all there passes, and so does an empty one
- every name of the real table is one of vLLM's, and named once
- the switch for AMX takes two words
"""

import subprocess
import sys

import pytest

import halftone.engine
from halftone.engine import amx, vllm_names
from halftone.engine.vllm_names import Name, UnsupportedVllm


def test_importing_the_room_loads_neither_torch_nor_vllm() -> None:
    code = "import sys, halftone.engine; print({'torch', 'vllm'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert isinstance(halftone.engine.kernels_in_use(), tuple)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (Name("json", "dismantle"), "`dismantle` is missing in `json`"),
        (Name("json", "JSONDecoder.dismantle"), "`JSONDecoder.dismantle` is missing in `json`"),
        (Name("json", "dumps", ("obj", "colour")), "`dumps` does not take `colour` in `json`"),
        (Name("jsonless", "dumps"), "does not load, in `jsonless`"),
    ],
)
def test_what_is_gone_is_named_with_the_versions(name: Name, wrong: str) -> None:
    with pytest.raises(UnsupportedVllm) as refused:
        vllm_names.require([Name("json", "loads"), name], ["no-such-thing", "pytest"])
    said = str(refused.value)
    assert wrong in said
    assert f"vLLM {pytest.__version__} is not supported" in said
    assert said.endswith(f"install vLLM {vllm_names.SUPPORTED}")
    assert isinstance(refused.value, RuntimeError)


def test_a_version_that_cannot_be_found_is_called_unknown() -> None:
    with pytest.raises(UnsupportedVllm, match=r"^vLLM of an unknown version is not supported"):
        vllm_names.require([Name("json", "dismantle")], ["no-such-thing"])


def test_only_what_is_missing_is_told() -> None:
    table = [Name("json", "loads", ("s",)), Name("json", "dismantle"), Name("json", "dumps")]
    assert [name.path for name, _ in vllm_names.missing(table)] == ["dismantle"]
    vllm_names.require([Name("json", "loads", ("s",)), Name("json", "JSONDecoder.decode", ("s",))])
    vllm_names.require([])


def test_the_table_names_vllm_only_and_nothing_twice() -> None:
    named = [(name.module, name.path) for name in vllm_names.NEEDED]
    assert {module.split(".")[0] for module, _ in named} == {"vllm"}
    assert len(named) == len(set(named))


def test_the_switch_for_amx_takes_two_words(monkeypatch: pytest.MonkeyPatch) -> None:
    amx.switch()
    monkeypatch.setenv(amx.VARIABLE, "On")
    amx.switch()
    monkeypatch.setenv(amx.VARIABLE, "off")
    with pytest.raises(ValueError, match="must be 'On' or 'Off', not 'off'"):
        amx.switch()
