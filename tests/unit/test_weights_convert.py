"""A pickled checkpoint becomes safetensors beside it, once, without a risk to what is there."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import imagereward_core as RM
from imagereward_core import weights
from imagereward_core.config import METADATA_KEY
from imagereward_core.errors import ConfigError, WeightsError
from imagereward_core.hashing import file_digest
from imagereward_core.locks import lock_for
from imagereward_core.registry import Source
from imagereward_core.weights import convert
from imagereward_core.weights.checkpoint import read_state
from tests.conftest import ROOT, random_state, tiny_config
from tests.unit.test_api import picture


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.fixture
def state():
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return {
        "a": base,
        "a.again": base,  # shares memory
        "part": base[1:],
        "turned": base.t(),  # not contiguous
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "brain": torch.tensor([3.0], dtype=torch.bfloat16),
        "mlp.weight": torch.tensor([0.1, 70000.0]),
        "ids": torch.arange(5)[None],
        "flag": torch.tensor([True, False, True]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def pickled(tmp_path, state):
    path = tmp_path / "model.pt"
    torch.save({"state_dict": state, METADATA_KEY: tiny_config().to_json(), "epoch": 3}, path)
    return path


def test_fp32_holds_the_same_values(pickled, state):
    target = convert.convert(pickled)
    assert target == pickled.with_suffix(".safetensors")
    found = load_file(target)
    assert found.keys() == state.keys()
    for key, tensor in state.items():
        wanted = tensor.float() if tensor.is_floating_point() else tensor
        assert found[key].dtype == wanted.dtype and torch.equal(found[key], wanted), key
    assert metadata_of(target)[METADATA_KEY] == tiny_config().to_json()
    assert read_state(target)[1][METADATA_KEY] == tiny_config().to_json()


def test_fp16_halves_all_but_the_head(pickled, state):
    target = convert.convert(pickled, "fp16")
    assert target.name == "model.fp16.safetensors"
    found = load_file(target)
    assert found["a"].dtype == torch.float16 and torch.equal(found["a"].float(), state["a"])
    assert found["mlp.weight"].dtype == torch.float32 and torch.equal(found["mlp.weight"], state["mlp.weight"])
    assert found["ids"].dtype == torch.int64


def test_what_does_not_fit_fp16_is_refused(tmp_path):
    path = tmp_path / "wide.pt"
    torch.save({"w": torch.tensor([1e6])}, path)
    with pytest.raises(WeightsError, match="w holds values beyond the 65504 of fp16"):
        convert.convert(path, "fp16")
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith(".")) == ["wide.pt"]
    with pytest.raises(ConfigError, match="'int4'"):
        convert.convert(path, "int4")


def test_every_tensor_is_aligned(pickled):
    target = convert.convert(pickled)
    header, start = convert_header(target)
    assert start % 8 == 0
    widths = {"F32": 4, "I64": 8, "BOOL": 1}
    assert all((start + entry["data_offsets"][0]) % widths[entry["dtype"]] == 0 for entry in header.values())


def convert_header(path):
    from imagereward_core.weights.checkpoint import read_header

    return read_header(path)


def test_converted_once_and_again_when_the_checkpoint_is_newer(pickled):
    target = convert.convert(pickled)
    first = target.stat().st_ino, target.stat().st_mtime_ns
    assert convert.convert(pickled) == target and (target.stat().st_ino, target.stat().st_mtime_ns) == first
    torch.save({"a": torch.zeros(3)}, pickled)
    later = target.stat().st_mtime + 60
    os.utime(pickled, (later, later))
    assert not convert.usable(target, pickled)
    convert.convert(pickled)
    assert load_file(target).keys() == {"a"}
    assert convert.usable(target, pickled)  # although the checkpoint's time lies in the future


def saved(path, seed, time=None):
    """A checkpoint whose size does not depend on the seed."""
    torch.save({"w": torch.rand(100, generator=torch.Generator().manual_seed(seed))}, path)
    if time is not None:
        os.utime(path, ns=(time, time))
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_older_checkpoint_of_equal_size_is_another_one(tmp_path, precision):
    path = saved(tmp_path / "model.pt", 1)
    target, size = convert.convert(path, precision), path.stat().st_size
    saved(path, 2, time=10**18)  # copied over with its own, older time
    assert path.stat().st_size == size and not convert.usable(target, path)
    assert convert.convert(path, precision) == target
    wanted = torch.rand(100, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(load_file(target)["w"].float(), wanted, atol=1e-3)
    assert convert.usable(target, path)


def test_a_copied_folder_keeps_its_conversion(tmp_path):
    path = saved(tmp_path / "model.pt", 1)
    target = convert.convert(path)
    for time in (10**18, 4 * 10**18):  # a copy has another time, before or after
        os.utime(path, ns=(time, time))
        made = target.stat().st_ino, target.stat().st_mtime_ns
        assert convert.usable(target, path)
        convert.keep_converted(path, *read_state(path))
        assert (target.stat().st_ino, target.stat().st_mtime_ns) == made  # not written again


def test_the_digest_of_a_checkpoint_is_computed_once(tmp_path, monkeypatch):
    path = saved(tmp_path / "model.pt", 1)
    target = convert.convert(path)
    os.utime(path, ns=(10**18, 10**18))
    asked = []
    monkeypatch.setattr(convert, "file_digest", lambda name: asked.append(name) or file_digest(name))
    assert [convert.usable(target, path) for _ in range(3)] == [True] * 3 and len(asked) == 1


def without_digest(target):
    """A conversion as earlier releases wrote it."""
    tensors, metadata = load_file(target), metadata_of(target)
    recorded = json.loads(metadata[convert.ORIGIN_KEY])
    del recorded["sha256"]
    save_file(tensors, target, metadata={**metadata, convert.ORIGIN_KEY: json.dumps(recorded)})


@pytest.mark.parametrize("precisions", [["fp32"], ["fp32", "fp16"]])
def test_a_conversion_without_a_digest_is_made_once_more(tmp_path, precisions):
    path = saved(tmp_path / "model.pt", 1)
    targets = [convert.convert(path, precision) for precision in precisions]
    for target in targets:
        without_digest(target)
        assert not convert.usable(target, path)
    convert.keep_converted(path, *read_state(path))
    for target in targets:
        assert convert.usable(target, path)
        assert json.loads(metadata_of(target)[convert.ORIGIN_KEY])["sha256"] == file_digest(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [path.name, *(target.name for target in targets)]
    )  # no locks, no leftovers


def test_a_stale_half_copy_that_cannot_be_made_is_no_obstacle(tmp_path):
    path = saved(tmp_path / "model.pt", 1)
    half = convert.convert(path, "fp16")
    torch.save({"w": torch.full((100,), 1e6)}, path)
    convert.keep_converted(path, *read_state(path))
    assert not convert.usable(half, path) and convert.usable(path.with_suffix(".safetensors"), path)


def test_a_checkpoint_that_changes_meanwhile_is_not_converted(tmp_path, monkeypatch):
    path = saved(tmp_path / "model.pt", 1)
    state, metadata = read_state(path)
    real = convert.write_safetensors

    def slow(*args):
        real(*args)
        os.utime(path, ns=(10**18, 10**18))

    monkeypatch.setattr(convert, "write_safetensors", slow)
    with pytest.raises(WeightsError, match="changed while it was read"):
        convert.keep_converted(path, state, metadata)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 200_000,
        b'{"__metadata__": {"imagereward.converted_from": "' + b"[" * 100_000 + b'"}}',
        b'{"__metadata__": []}',
        b"null",
        b'{"__metadata__": {"imagereward.converted_from": "7"}}',
    ],
    ids=range(5),
)
def test_no_header_is_too_strange_to_be_read(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert convert.origin(path) is None


def test_a_checkpoint_of_another_size_is_not_mistaken_for_its_conversion(pickled):
    target = convert.convert(pickled)
    torch.save({"a": torch.zeros(1000)}, pickled)
    os.utime(pickled, (1, 1))  # an old file moved here
    assert not convert.usable(target, pickled)


def test_loading_converts_and_the_next_load_reads_the_copy(tmp_path, monkeypatch):
    config = tiny_config()
    path = tmp_path / "tiny.pt"
    torch.save({"model": random_state(config), METADATA_KEY: config.to_json()}, path)
    first = RM.load(path, device="cpu").score("a cat", picture(0))
    assert (tmp_path / "tiny.safetensors").is_file()
    monkeypatch.setattr(
        "imagereward_core.weights.checkpoint._read_pickled", lambda *_: pytest.fail("the .pt was read again")
    )
    model = RM.load(path, device="cpu")
    assert model.score("a cat", picture(0)) == pytest.approx(first, abs=1e-6)
    assert model.name == "tiny"


def test_weights_stay_in_the_mapped_file(tmp_path):
    """On the CPU in fp32 no weight is copied: the parameters' memory is the file's mapping."""
    config = tiny_config()
    path = tmp_path / "tiny.safetensors"
    save_file(random_state(config), path, metadata={METADATA_KEY: config.to_json()})
    model = RM.load(path, device="cpu", precision="fp32")
    regions = []
    with open("/proc/self/maps") if os.path.exists("/proc/self/maps") else open(os.devnull) as maps:
        for line in maps:
            if str(path) in line:
                regions.append([int(part, 16) for part in line.split()[0].split("-")])
    if not regions:
        pytest.skip("this system does not list memory maps")
    outside = [
        name
        for name, parameter in model.net.named_parameters()
        if not any(start <= parameter.data_ptr() < end for start, end in regions)
    ]
    assert outside == []


def test_a_half_precision_copy_is_used_where_it_serves(tmp_path):
    path = tmp_path / "ImageReward.pt"
    torch.save({"w": torch.rand(4)}, path)
    source = Source("ImageReward.pt", repo="a/b")
    half = convert.convert(path, "fp16")
    assert weights.locate(source, download_root=tmp_path, half=True) == half
    assert weights.locate(source, download_root=tmp_path) == path
    full = convert.convert(path)
    assert weights.locate(source, download_root=tmp_path) == full
    path.unlink()
    full.unlink()
    assert weights.locate(source, download_root=tmp_path) == half  # better than a download


def test_a_safetensors_file_of_somebody_else_stays(tmp_path):
    config = tiny_config()
    path, foreign = tmp_path / "tiny.pt", tmp_path / "tiny.safetensors"
    torch.save({"model": random_state(config, 1), METADATA_KEY: config.to_json()}, path)
    save_file(random_state(config, 2), foreign, metadata={METADATA_KEY: config.to_json()})
    before = foreign.read_bytes()
    ours, theirs = (RM.load(file, device="cpu").score("a", picture(0)) for file in (path, foreign))
    assert ours != pytest.approx(theirs) and foreign.read_bytes() == before
    assert weights.locate(Source("tiny.pt", repo="a/b"), download_root=tmp_path) == foreign
    foreign.write_bytes(before[:-10])
    assert weights.locate(Source("tiny.pt", repo="a/b"), download_root=tmp_path) == path
    with pytest.raises(WeightsError, match="not overwritten"):
        convert.convert(path)
    RM.load(path, device="cpu")
    assert foreign.read_bytes() == before[:-10]


def test_a_damaged_copy_is_not_used_and_made_again(tmp_path):
    config = tiny_config()
    path = tmp_path / "tiny.pt"
    torch.save({"model": random_state(config), METADATA_KEY: config.to_json()}, path)
    first = RM.load(path, device="cpu").score("a", picture(0))
    copy = tmp_path / "tiny.safetensors"
    copy.write_bytes(copy.read_bytes()[:-100])
    assert RM.load(path, device="cpu").score("a", picture(0)) == pytest.approx(first, abs=1e-6)
    assert weights.resolve(path) == copy


@pytest.mark.parametrize(
    "where", ["imagereward_core.weights.convert.write_safetensors", "imagereward_core.weights.convert.os.replace"]
)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_read_only_or_full_folder_is_no_problem(pickled, monkeypatch, where, number):
    def refuse(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(where, refuse)
    state, metadata = read_state(pickled)
    weights.keep_converted(pickled, state, metadata)
    assert [file.name for file in pickled.parent.iterdir()] == ["model.pt"]
    with pytest.raises(WeightsError, match="could not be converted"):
        convert.convert(pickled)


def test_no_room_is_seen_before_anything_is_written(pickled, monkeypatch):
    monkeypatch.setattr(
        "imagereward_core.weights.convert.shutil.disk_usage", lambda _: type("usage", (), {"free": 1000})
    )
    with pytest.raises(WeightsError, match="are free in"):
        convert.convert(pickled)


def test_another_process_converting_is_left_alone(pickled):
    with lock_for(pickled.with_suffix(".safetensors")):
        weights.keep_converted(pickled, *read_state(pickled))
    assert not pickled.with_suffix(".safetensors").exists()


def test_nan_is_found_and_not_kept(tmp_path):
    path = tmp_path / "nan.pt"
    torch.save({"w": torch.tensor([1.0, float("nan")]), "v": torch.ones(2)}, path)
    state, metadata = read_state(path)
    assert weights.non_finite(state) == ["w"]
    assert (
        weights.non_finite({"large": torch.full((4,), 3e38), "ids": torch.arange(3)}) == []
    )  # a sum that overflows is no NaN
    with pytest.raises(WeightsError, match="w holds NaN"):
        weights.keep_converted(path, state, metadata)
    assert not path.with_suffix(".safetensors").exists()


def test_a_flipped_bit_is_found_while_converting(tmp_path):
    path = tmp_path / "flipped.pt"
    tensor = torch.arange(1000, dtype=torch.float32)
    torch.save({"w": tensor, "v": torch.ones(3)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(tensor.numpy().tobytes()) + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="1 of its records fail"):
        weights.keep_converted(path, *read_state(path))
    assert path.read_bytes() == data


def test_origin_is_recorded(pickled):
    recorded = json.loads(metadata_of(convert.convert(pickled))[convert.ORIGIN_KEY])
    assert recorded == {
        "file": "model.pt",
        "size": pickled.stat().st_size,
        "mtime_ns": pickled.stat().st_mtime_ns,
        "sha256": file_digest(pickled),
    }


@pytest.mark.skipif(torch.__version__.startswith("2.3"), reason="torch 2.3 loads sympy on its meta device")
def test_loading_brings_in_no_compiler(tmp_path, tiny_file):
    """torch's compiler and sympy cost a second and 100 MB; some functions load them when they run on the meta
    device.
    """
    code = (
        "import sys, torch; before = set(sys.modules); import imagereward_core as RM; RM.load(sys.argv[1],"
        " device='cpu');print([name for name in set(sys.modules) - before if name in ('sympy', 'torch._dynamo')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_file)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
