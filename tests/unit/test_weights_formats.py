"""Headers that are an attack, names that are not what they say, and the table of kinds."""

import json
import logging
import os
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from imagereward_core import clip_bpe
from imagereward_core.errors import WeightsError
from imagereward_core.weights import kinds
from imagereward_core.weights.checkpoint import checked, inspect, kind_of_file, plain_names, read_state
from imagereward_core.weights.formats import HEADER, MARKS, read_metadata


def with_header(path, text: bytes, length: int | None = None):
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)
    return path


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested too deeply"),
        (b"{" + b",".join(b'"%d":{}' % number for number in range(MARKS // 2 + 1)) + b"}", "beyond the limit"),
        (b"[1, 2]", "a list, not an object"),
        (b'{"a": 3}', "entry of 'a' is malformed"),
        (b'{"a": {"data_offsets": [0, 1e400], "shape": [1]}}', "malformed"),
        (b'{"a": {"data_offsets": [8, 4], "shape": [1]}}', "malformed"),
        (b'{"a": {"data_offsets": [0, 4], "shape": "x"}}', "malformed"),
    ],
)
def test_headers_that_are_none_are_refused(tmp_path, text, word):
    path = with_header(tmp_path / "x.safetensors", text)
    kind, problem = inspect(path)
    assert not kind and word in problem
    with pytest.raises(WeightsError, match=word):
        read_state(path)


def test_a_header_of_any_length_is_not_read(tmp_path):
    path = with_header(tmp_path / "x.safetensors", b"{}", HEADER + 1)
    assert "out of range" in inspect(path)[1]


def test_deep_json_is_no_recursion_error(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[" * 200_000)
    assert "not valid JSON" in inspect(path)[1]


def test_a_named_pipe_is_not_waited_for(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "no regular file" in inspect(tmp_path / "pipe.safetensors")[1]


def test_gguf_is_said_to_be_quantised(tmp_path):
    (tmp_path / "flux.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(WeightsError, match=r"quantised \(GGUF\)"):
        read_state(tmp_path / "flux.gguf")


def test_capitals_in_the_suffix_change_nothing(tmp_path):
    state = {"a": torch.arange(5.0)}
    save_file(state, str(tmp_path / "X.SAFETENSORS"))
    torch.save(state, tmp_path / "X.PT")
    for name in ("X.SAFETENSORS", "X.PT"):
        assert torch.equal(read_state(tmp_path / name)[0]["a"], state["a"])
    (tmp_path / "C.JSON").write_text("{")
    assert "not valid JSON" in inspect(tmp_path / "C.JSON")[1]


def repacked(source, target, compression):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return target


def test_a_compressed_checkpoint_is_never_mapped_as_numbers(tmp_path):
    state = {"a": torch.linspace(-1, 1, 10_000), "b": torch.full((300,), 7, dtype=torch.int64)}
    torch.save(state, tmp_path / "plain.pt")
    path = repacked(tmp_path / "plain.pt", tmp_path / "deflated.pt", zipfile.ZIP_DEFLATED)
    found = read_state(path)[0]
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())


def test_a_checkpoint_that_expands_without_end_is_not_opened(tmp_path):
    torch.save({"a": torch.zeros(40_000_000)}, tmp_path / "plain.pt")
    path = repacked(tmp_path / "plain.pt", tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="claims to expand to 160"):
        read_state(path)


def test_names_without_what_compiling_left():
    state = {"module._orig_mod.a.b": 1, "x._orig_mod.module.y": 2, "modules.c": 3}
    assert plain_names(state) == {"a.b": 1, "x.y": 2, "modules.c": 3}
    assert plain_names({"module.a": 1, "a": 2}) == {"module.a": 1, "a": 2}  # both are there: neither is lost


def test_surplus_tensors_are_one_warning(caplog):
    net = torch.nn.Linear(2, 3)
    state = {**net.state_dict(), "position_ids": torch.zeros(1), "extra.one": torch.zeros(1)}
    with caplog.at_level(logging.WARNING):
        found = checked(state, net, (), "x.pt")
    assert found.keys() == {"weight", "bias"}
    assert [record.getMessage() for record in caplog.records] == [
        "x.pt holds 2 tensors that the network has no use for (extra.one, position_ids); they are left out"
    ]
    with pytest.raises(WeightsError, match=r"1 missing \(bias\)"):
        checked({"weight": state["weight"]}, net, (), "x.pt")
    with pytest.raises(WeightsError, match=r"1 of another shape \(bias \[4\] where \[3\] is wanted\)"):
        checked({**state, "bias": torch.zeros(4)}, net, (), "x.pt")


def test_the_kind_of_a_file_is_told_by_its_header(tmp_path):
    first = "model.diffusion_model.input_blocks.0.0.weight"
    tensors = {first: torch.zeros(2, 9, 3, 3), "cond_stage_model.transformer.x": torch.zeros(1)}
    save_file(tensors, str(tmp_path / "a.safetensors"), {"modelspec.title": "mine"})
    kind = kind_of_file(tmp_path / "a.safetensors")
    assert (kind.key, kind.name) == ("inpainting", "an inpainting model (9 input channels)")
    assert read_metadata(tmp_path / "a.safetensors") == {"modelspec.title": "mine"}
    save_file(
        {first: torch.zeros(2, 4, 3, 3), "cond_stage_model.transformer.x": torch.zeros(1)}, tmp_path / "a.safetensors"
    )
    assert kind_of_file(tmp_path / "a.safetensors").key == "sd1"
    torch.save(tensors, tmp_path / "a.pt")
    assert kind_of_file(tmp_path / "a.pt") is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("FluxPipeline", "flux"),
        ("Flux2KleinPipeline", "flux2"),
        ("StableDiffusion3Pipeline", "sd3"),
        ("HunyuanDiTPipeline", "hunyuan-dit"),
        ("PixArtSigmaPipeline", "pixart"),
        ("ZImagePipeline", "z-image"),
        ("WanPipeline", "wan"),
        ("StableCascadeDecoderPipeline", "cascade"),
    ],
)
def test_pipelines_of_other_models(name, key):
    assert kinds.of_pipeline(name).key == key


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", ""])
def test_pipelines_of_our_own(name):
    assert kinds.of_pipeline(name) is None


@pytest.mark.parametrize("name", ["flux-2-klein-4b", "FLUX.2-klein-9B", "flux2-klein-4b_bf16", "z_image_turbo"])
def test_names_of_few_step_models(name):
    assert kinds.few_step(name)


@pytest.mark.parametrize("name", ["flux-2-klein-base-4b", "FLUX.2-klein-4B-base", "flux1-dev", "my-klein-4b", ""])
def test_names_of_models_of_many_steps(name):
    assert not kinds.few_step(name)


def test_a_tokeniser_folder_that_is_none(tmp_path):
    for text in ("{", "[]", '{"a": 1}', "[" * 200_000):
        (tmp_path / "vocab.json").write_text(text)
        (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
        with pytest.raises(WeightsError, match="holds no CLIP tokenizer"):
            clip_bpe.from_folder(tmp_path)
    (tmp_path / "list.gz").write_bytes(b"no gzip")
    with pytest.raises(WeightsError, match="token file"):
        clip_bpe.from_merge_list(tmp_path / "list.gz")


def test_a_tokenizer_json_is_read(tmp_path):
    vocab, merges = clip_bpe.vocabulary()
    model = {"vocab": vocab, "merges": [" ".join(pair) for pair in merges]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "!"}}))
    tokenizer = clip_bpe.from_folder(tmp_path)
    assert tokenizer(["a photo of a cat"])[0] == [49406, 320, 1125, 539, 320, 2368, 49407, *[0] * 70]
