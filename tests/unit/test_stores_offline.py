"""The Hub, once it is closed to a process.

We test these aspects: this process and those that it starts ask the Hub for nothing any more.
"""

import os

import pytest
from huggingface_hub import constants

from halftone.spec.errors import EnvironmentFault
from halftone.stores import open_source
from halftone.stores.offline import close_hub
from tests.doubles.hub import HubDouble


def test_a_closed_hub_is_asked_nothing(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # and put back afterwards
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with HubDouble(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        open_source(hub.uri).close()
        asked = len(hub.requests)
        close_hub()
        with pytest.raises(EnvironmentFault):
            open_source(hub.uri)
        assert asked
        assert len(hub.requests) == asked
    assert os.environ["HF_HUB_OFFLINE"] == "1"
