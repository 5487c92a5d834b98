"""Fixtures of the unit tests."""

import time
import types

import pytest

from imagereward_core.weights import download, hub
from tests.unit.hub_server import Hub
from tests.unit.weights_samples import CONTENT


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The hub on the loopback interface, with the client allowed to reach it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "IMAGEREWARD_HOME", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setattr(hub, "DELAYS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(download, "DELAYS", (0.0, 0.0, 0.0))
    hurried = types.SimpleNamespace(
        **{**vars(time), "sleep": lambda _: None}
    )  # some clients wait between tries of their own
    monkeypatch.setattr("huggingface_hub.utils._http.time", hurried, raising=False)
    forget_sessions()
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        running.put("owner/name", "model.pt", CONTENT)
        yield running
    forget_sessions()


def forget_sessions():
    """Older hub clients keep a session that was made while they were offline."""
    import huggingface_hub.utils

    for name in ("reset_sessions", "close_session"):
        getattr(huggingface_hub.utils, name, lambda: None)()
