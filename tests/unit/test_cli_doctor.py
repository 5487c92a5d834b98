"""The doctor and its self-test: sound installations pass, each kind of damage is found and comes with its fix."""

import dataclasses
import hashlib
import importlib.resources
import json
import re

import numpy as np
import pytest
import torch

from imagereward_cli import main as cli
from imagereward_core import doctor, exit_codes, preprocess, registry, selftest, weights
from imagereward_core.doctor import REQUIRED, VOCABULARY_SHA256, Finding, examine
from imagereward_core.errors import ModelNotFoundError
from imagereward_core.registry import ModelInfo, Source
from imagereward_core.weights import hub
from tests.conftest import ROOT


@pytest.fixture
def home(tmp_path, monkeypatch):
    """No weights but those the test puts there."""
    monkeypatch.setenv("IMAGEREWARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(hub, "cached", lambda source: None)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_self_test_passes_here():
    found = selftest.scores("cpu")
    assert len({round(score, 4) for row in found for score in row}) == len(selftest.PROMPTS) * len(selftest.IMAGES)
    assert selftest.largest_difference(found) < 1e-5


def test_seeded_numbers_never_change():
    assert selftest.uniform("a", (2, 2)).ravel().tolist() == pytest.approx(
        [-0.183994410, 0.494045755, 0.312574149, -0.991119807], abs=1e-9
    )
    assert abs(selftest.uniform("b", (10_000,)).mean()) < 0.02
    assert np.ptp(selftest.uniform("b", (10_000,))) > 1.99


def test_the_self_test_notices_pixels_off_by_one_level(monkeypatch):
    real = preprocess.resize_and_crop
    monkeypatch.setattr(
        preprocess, "resize_and_crop", lambda image, size: real(image, size).point(lambda value: min(value + 1, 255))
    )
    finding = doctor.self_test("cpu")
    assert finding.status == "problem" and "recorded scores" in finding.detail and finding.fix


def test_the_self_test_notices_colours_converted_too_early(monkeypatch):
    real = preprocess.resize_and_crop
    monkeypatch.setattr(preprocess, "resize_and_crop", lambda image, size: real(image.convert("RGB"), size))
    assert doctor.self_test("cpu").status == "problem"


def test_requirements_are_those_of_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE).group(1)
    assert dict(re.findall(r'"([\w.-]+)>=([\d.]+)"', block)) == REQUIRED


def test_the_vocabulary_is_the_published_one():
    data = importlib.resources.files("imagereward_core").joinpath("data/bert-base-uncased-vocab.txt").read_bytes()
    assert hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest() == VOCABULARY_SHA256
    assert doctor.vocabulary().status == "ok"


def test_missing_and_old_packages(monkeypatch):
    versions = {**dict.fromkeys(REQUIRED, "999"), "torch": "2.0.1+cu118", "tqdm": None, "transformers": "4.30.2"}
    monkeypatch.setattr(doctor, "_installed", versions.get)
    found = {finding.name: finding for finding in examine("ImageReward-v1.0")}
    assert found["torch"].status == "problem" and '"torch>=2.1"' in found["torch"].fix
    assert found["tqdm"].detail.startswith("not installed")
    assert found["numpy"].status == found["transformers"].status == "ok"
    assert "device" not in found  # nothing else is tried without torch


def test_a_missing_optional_package_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda name: None)
    assert [finding.status for finding in doctor.optional_packages()] == ["note"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there():
    finding = doctor.compute_device("cuda")
    assert (
        finding.status == "problem" and finding.detail.startswith("cuda cannot be used: ") and "--device" in finding.fix
    )


# --- weights --------------------------------------------------------------------------------------


def model(content=None, repo="someone/model"):
    digest = hashlib.sha256(content).hexdigest() if content else None
    return ModelInfo(
        "Test",
        "imagereward",
        (Source("test.safetensors", repo=repo, about=2_000_000_000, sha256=digest),),
        "MIT",
        "a test",
    )


def check(info, needed=True, online=False):
    return doctor.weights_file(info, info.sources[0], needed, None, online)


@pytest.fixture
def content(tiny_file):
    return tiny_file.read_bytes()


def test_absent_weights(home):
    assert check(model()) == Finding(
        "weights of Test", "problem", "test.safetensors is not on this machine", "imagereward fetch Test (2.00 GB)"
    )
    assert check(model(), needed=False).status == "note"


def test_sound_weights(home, content):
    (home / "test.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    finding = check(model(content))
    assert finding.status == "ok" and f"sha256 {digest[:10]}… as announced" in finding.detail
    assert "--online" in check(model()).detail


def test_other_weights_than_announced(home, content):
    (home / "test.safetensors").write_bytes(content)
    info = dataclasses.replace(model(), sources=(dataclasses.replace(model().sources[0], sha256="0" * 64),))
    finding = check(info)
    assert (
        finding.status == "problem" and "announces 0000000000" in finding.detail and finding.fix.startswith("remove ")
    )


def test_cut_weights(home, content):
    (home / "test.safetensors").write_bytes(content[:-100])
    finding = check(model())
    assert finding.status == "problem" and finding.fix.startswith("imagereward fetch Test")


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        (
            "{" + ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(10**6)) + "}"
        ).encode(),
    ],
    ids=["deep", "deep objects", "a million entries"],
)
def test_headers_that_are_traps_are_a_finding_and_no_crash(home, header, monkeypatch):
    """`doctor` names the file, `fetch` wants it anew."""
    (home / "test.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    finding = check(model())
    assert finding.status == "problem" and finding.fix.startswith("imagereward fetch Test")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match=r"no sound test\.safetensors"):
        weights.fetch(model(), download_root=home)


def test_online_asks_the_source(home, content, monkeypatch):
    (home / "test.safetensors").write_bytes(content)
    monkeypatch.setattr(hub, "ask", lambda source: hub.Remote("url", digest=("sha256", "f" * 64)))
    assert check(model(), online=True).status == "problem"
    monkeypatch.setattr(
        hub, "ask", lambda source: hub.Remote("url", digest=("sha256", hashlib.sha256(content).hexdigest()))
    )
    assert check(model(), online=True).status == "ok"


def test_a_conversion_is_known_by_what_it_was_made_from(home):
    """Its own bytes are nobody's announcement; those of the checkpoint that it records are."""
    torch.save({"w": torch.ones(4)}, home / "test.pt")
    digest = hashlib.sha256((home / "test.pt").read_bytes()).hexdigest()
    weights.find.convert_file(home / "test.pt")
    sources = [Source("test.pt", repo="someone/model", sha256=sha256) for sha256 in (digest, "0" * 64, None)]
    good, other, unknown = (check(dataclasses.replace(model(), sources=(source,))) for source in sources)
    assert good.status == "ok" and f"converted from sha256 {digest[:10]}… as announced" in good.detail
    assert other.status == "problem" and "announces 0000000000" in other.detail
    assert unknown.status == "ok" and "--online" in unknown.detail


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_every_problem_with_its_fix(home, capsys):
    assert cli.main(["doctor", "--device", "cpu"]) == exit_codes.MODEL
    out = capsys.readouterr().out
    assert re.search(r"^ok +self-test on cpu: ", out, re.MULTILINE)
    assert re.search(
        r"^problem +weights of ImageReward-v1.0: .*\n +fix: imagereward fetch ImageReward-v1.0", out, re.MULTILINE
    )
    assert re.search(r"^note +weights of CLIP: ", out, re.MULTILINE)
    assert out.endswith("1 problem found\n")


def test_the_command_as_json_when_all_is_well(home, monkeypatch, capsys, tiny_file):
    def locate(source, *, download_root=None, models_dir=None, download=True, progress=None, half=False):
        assert download is False
        if source.filename == "ImageReward.pt":
            return tiny_file
        raise ModelNotFoundError("absent")

    monkeypatch.setattr(weights, "locate", locate)
    assert cli.main(["doctor", "--device", "cpu", "--json"]) == exit_codes.OK
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["weights of ImageReward-v1.0"]["status"] == "ok"
    assert {finding["status"] for finding in found.values()} <= {"ok", "note"}


def test_an_unknown_model(capsys):
    assert cli.main(["doctor", "--model", "Nothing"]) == exit_codes.MODEL
    assert registry.MODELS[0].name in capsys.readouterr().err
