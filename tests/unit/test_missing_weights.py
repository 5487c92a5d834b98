"""What of a model is not on this machine."""

from imagereward_core import registry, weights


def test_missing_lists_the_files_that_are_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IMAGEREWARD_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("imagereward_core.weights.hub.cached", lambda source: None)
    info = registry.get("Aesthetic")
    assert weights.missing(info, models_dir=tmp_path) == list(info.sources)
    (tmp_path / info.sources[1].local_name).write_bytes(b"x")
    assert weights.missing(info, models_dir=tmp_path) == [info.sources[0]]
