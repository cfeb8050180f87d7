"""What is said of a package that is not installed.

We test these aspects: the sentence names what needs it, the package by the name that is installed,
the extra, and another way out where there is one; a fault of ours or an ordinary error stays.
"""

import pytest

from halftone.spec.errors import EnvironmentFault
from halftone.spec.extras import extra
from halftone.spec.names import Reason


def lacking(name: str | None) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_package_is_named_with_its_extra_and_another_way_out() -> None:
    with (
        pytest.raises(EnvironmentFault) as caught,
        extra("report", "The plot", ", or ask for `--json`"),
    ):
        raise lacking("matplotlib.figure")
    assert caught.value.reason is Reason.MissingDependency
    assert caught.value.subject == "matplotlib"
    assert str(caught.value) == (
        "The plot needs matplotlib, which is not installed; run `pip install 'halftone[report]'`, "
        "or ask for `--json`."
    )


@pytest.mark.parametrize(
    "error", [lacking("halftone.nowhere"), lacking(None), ImportError("no name in it"), OSError()]
)
def test_what_no_extra_brings_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, extra("report", "The plot"):
        raise error
    assert caught.value is error
