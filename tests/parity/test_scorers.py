"""The scorers against the references' recorded results on seeded small weights (tests/golden/scorers/README.md)."""

import dataclasses

import PIL
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import imagereward_core as RM
from imagereward_core import registry
from tests.golden import sets

pytest.importorskip("transformers", reason="the CLIP towers come from transformers")
TOLERANCE = 1e-5
# MPS multiplies a cosine by 100, and its record holds the fp32 rounding of the CPU it was made on: computed in fp64
# throughout, it is 2.0e-5 away. The reference's own code, held to AVX2 or SSE instructions, misses its record by
# 1.1e-5; where the instructions are the record's (AVX-512), the bound is that of the others.
OTHER_CPU = {"mps": 2e-5}
EAGER = 3e-5  # a transformers before 4.45 has another attention than PyTorch's: again the last digits, times 100
# Pillow before 13 resizes one picture (300 x 451) to 384 x 384 otherwise than the Pillow of the record does: 6044 of
# 442368 values, by at most 2 of 255; what is decoded is equal, and so are all other pictures.
OLD_PILLOW = {"tall.png": 5e-5}


def needs_siglip():
    """Skips where neither library has the tower; what a user is told there has its own test."""
    import transformers

    if not hasattr(transformers, "SiglipVisionModel"):
        pytest.importorskip("timm", reason="this transformers has no SigLIP, and there is no timm")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorers")
    return {name: sets.write(name, folder) for name in sets.NAMES}


def tolerance(name):
    from transformers.models.clip import modeling_clip

    pytorchs = any("sdpa" in part.lower() for part in vars(modeling_clip)) or hasattr(
        modeling_clip, "ALL_ATTENTION_FUNCTIONS"
    )
    if name in ("pickscore", "mps") and not pytorchs:
        return EAGER
    is_the_records = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return TOLERANCE if is_the_records else OTHER_CPU.get(name, TOLERANCE)


def odd_pictures(name):
    """Pictures with a bound of their own."""
    old = int(PIL.__version__.partition(".")[0]) < 13
    return OLD_PILLOW if name == "aesthetic_v25" and old else {}


def load(files, name, **settings):
    if name == "aesthetic_v25":
        needs_siglip()
    config = {**sets.read(name, "config.json"), **settings}
    return RM.load_score(sets.NAMES[name], device="cpu", weights=files[name], config=config)


@pytest.mark.parametrize(("name", "case", "settings"), sets.cases(), ids=lambda value: str(value))
def test_scores(files, name, case, settings):
    golden = sets.read(name)
    expected = golden["cases"][case]["scores"]
    rows = load(files, name, **settings).score_matrix(golden["prompts"], sets.images(name))
    assert len(rows) == len(golden["prompts"]) and {len(row) for row in rows} == {len(golden["images"])}
    for column, image in enumerate(golden["images"]):
        ours, theirs = ([[row[column]] for row in table] for table in (rows, expected))
        assert sets.worst(ours, theirs) <= odd_pictures(name).get(image, tolerance(name)), image
    if len(expected) == 1:  # a scorer that does not read the prompt
        assert all(row == rows[0] for row in rows)


@pytest.mark.parametrize("name", ["pickscore", "hpsv2", "mps"])
def test_token_ids(files, name):
    golden = sets.read(name)
    scorer = load(files, name)
    for prompt, ids in zip(golden["prompts"], golden["input_ids"]):
        assert scorer.tokenize([prompt])[0].tolist() == ids


def test_token_ids_of_cyclereward(files):
    golden = sets.read("cyclereward")
    scorer = load(files, "cyclereward")
    for prompt, ids in zip(golden["prompts"], golden["input_ids"]):
        found, mask = scorer.tokenize([prompt])
        assert found[0].tolist() == ids[: found.shape[1]] and not any(ids[found.shape[1] :])
        assert mask.sum() == len([value for value in ids if value])


def test_the_open_words_of_mps(files):
    golden = sets.read("mps")
    for case, values in golden["cases"].items():
        if "open_tokens" in values:
            scorer = load(files, "mps", threshold=float(case.split("threshold")[1]))
            with torch.no_grad():
                counts = [int(scorer.encode_open_words([prompt])[2].sum()) for prompt in golden["prompts"]]
            assert counts == values["open_tokens"]


def test_mps_is_normalised_per_image_never_per_batch(files):
    golden = sets.read("mps")
    scorer = load(files, "mps", threshold=0.95)
    paths = sets.images("mps")[:5]
    alone = [scorer.score(prompt, path) for prompt, path in zip(golden["prompts"], paths)]
    assert scorer.score_pairs(golden["prompts"], paths) == pytest.approx(alone, abs=1e-5)
    with torch.no_grad():
        single = [scorer.encode_open_words([prompt])[2] for prompt in golden["prompts"]]
        assert torch.equal(scorer.encode_open_words(golden["prompts"])[2], torch.cat(single))


# --- the traps of the sets' README: each of these differences must show -------------------------------------------


def scores(scorer, name):
    return scorer.score_matrix(sets.read(name)["prompts"], sets.images(name))


def test_trap_the_activation(files):
    expected = sets.read("pickscore")["cases"]["seed101"]["scores"]
    config = sets.read("pickscore", "config.json")
    for part in ("text", "vision"):
        config[part]["hidden_act"] = "quick_gelu"
    wrong = load(files, "pickscore", **config)
    assert sets.worst(scores(wrong, "pickscore"), expected) > 1e-3
    for part in ("text", "vision"):
        del config[part]["hidden_act"]  # CLIP-H's own is the default
    assert sets.worst(scores(load(files, "pickscore", **config), "pickscore"), expected) <= tolerance("pickscore")


@pytest.mark.parametrize("name", ["pickscore", "mps"])
def test_trap_rgb_before_resizing(files, name, monkeypatch):
    scorer = load(files, name)
    right = scores(scorer, name)
    monkeypatch.setattr("imagereward_core.scorers.twotower.to_rgb", lambda image: image)
    columns = sets.read(name)["images"]
    wrong = scores(scorer, name)
    for column, image in enumerate(columns):
        moved = max(abs(a[column] - b[column]) for a, b in zip(right, wrong))
        assert (moved > 0.01) == (image in ("rgba.png", "palette.png")), image


def test_trap_cyclereward_reads_128_tokens_and_has_gelu(files):
    expected = sets.read("cyclereward")["cases"]["seed101"]["scores"]
    short = load(files, "cyclereward", max_tokens=35)
    assert sets.worst(scores(short, "cyclereward")[4:], expected[4:]) > 1e-3
    assert sets.worst(scores(short, "cyclereward")[:4], expected[:4]) <= TOLERANCE
    scorer = load(files, "cyclereward")
    scorer.net.mlp.layers = nn.Sequential(*(part for part in scorer.net.mlp.layers if isinstance(part, nn.Linear)))
    assert sets.worst(scores(scorer, "cyclereward"), expected) > 0.5


def test_trap_antialias_changes_hpsv2_and_is_recorded(files):
    on, off = load(files, "hpsv2"), load(files, "hpsv2", antialias=False)
    moved = max(abs(a - b) for row, other in zip(scores(on, "hpsv2"), scores(off, "hpsv2")) for a, b in zip(row, other))
    assert 1e-3 < moved < 0.02
    assert (on.name, off.name) == ("HPSv2.1", "HPSv2.1 antialias off")
    assert (on.settings, off.settings) == ({"antialias": True}, {"antialias": False})


def test_trap_hpsv2_pads_with_black_before_normalising(files):
    scorer = load(files, "hpsv2")
    wide = torch.rand(1, 3, 40, 80)
    pixels = scorer.pixels_from_tensor(wide)
    black = -torch.tensor([0.48145466, 0.4578275, 0.40821073]) / torch.tensor([0.26862954, 0.26130258, 0.27577711])
    assert torch.allclose(pixels[0, :, 0, 0], black) and torch.allclose(pixels[0, :, 223, 223], black)
    rows = (pixels[0] - black[:, None, None]).abs().amax(dim=(0, 2)) > 1e-6
    assert int(rows.sum()) == 112 and bool(rows[56:168].all())


def test_trap_hpsv2_scores_rgba_as_rgb_where_the_reference_raises(files):
    from PIL import Image

    scorer = load(files, "hpsv2")
    path = sets.FOLDER.parent / "images" / "rgba.png"
    with Image.open(path) as image:
        assert image.mode == "RGBA"
        assert scorer.score("cat", path) == pytest.approx(scorer.score("cat", image.convert("RGB")), abs=1e-6)


def test_trap_aesthetic_v25_does_not_keep_the_aspect(files):
    from PIL import Image

    scorer = load(files, "aesthetic_v25")
    wide = Image.linear_gradient("L").resize((300, 60)).convert("RGB")
    assert tuple(scorer.preprocess(wide).shape) == (3, 384, 384)
    square = wide.resize((384, 384), Image.Resampling.BICUBIC)
    assert torch.equal(scorer.preprocess(wide), scorer.preprocess(square))
    assert float(scorer.preprocess(Image.new("RGB", (9, 9), "white")).mean()) == 1.0  # mean = std = 0.5


# --- other layouts, libraries, precisions -------------------------------------------------------------------------


def test_the_towers_of_transformers_and_timm_are_equal(files):
    transformers = pytest.importorskip("transformers")
    from imagereward_core.scorers.towers import siglip

    if not hasattr(transformers, "SiglipVisionModel"):
        pytest.skip("this transformers has no SigLIP")
    config = sets.read("aesthetic_v25", "config.json")
    state = {key: value for key, value in sets.state("aesthetic_v25").items() if key.startswith("vision_model.")}
    sizes = siglip.siglip_sizes(state, config["vision"], "golden")
    cpu = torch.device("cpu")
    try:
        theirs = siglip.timm_tower(state, sizes, torch.float32, cpu, "golden")
    except ImportError as error:
        pytest.skip(f"needs timm: {error}")
    ours = siglip.build_siglip(state, sizes, torch.float32, cpu, "golden")
    pixels = torch.randn(2, 3, sizes.image, sizes.image, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = ours(pixels), theirs(pixels)
    assert a.std() > 0.05
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_without_both_libraries_one_sentence_says_what_is_missing(files, monkeypatch):
    import sys

    from imagereward_core.errors import ModelNotFoundError

    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    config = sets.read("aesthetic_v25", "config.json")
    with pytest.raises(ModelNotFoundError, match="transformers>=4.37 or from timm>=0.9.9, and neither is here"):
        RM.load_score("Aesthetic v2.5", device="cpu", weights=files["aesthetic_v25"], config=config)
    with pytest.raises(ModelNotFoundError, match="need the package transformers"):
        RM.load_score(
            "PickScore", device="cpu", weights=files["pickscore"], config=sets.read("pickscore", "config.json")
        )


def test_waifu_head_against_a_transcription():
    """The layers in the order the authors' file numbers them, written out."""
    from imagereward_core.scorers.waifu import build_head

    torch.manual_seed(0)
    widths = (24, 40, 20, 12, 10, 8)
    layers: list[nn.Module] = []
    for inner, outer, rate in zip(widths, widths[1:5], (0.3, 0.3, 0.2, 0.1)):
        layers += [nn.Linear(inner, outer), nn.ReLU(), nn.BatchNorm1d(outer), nn.Dropout(rate)]
    layers += [nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1)]
    theirs = nn.Module()
    theirs.layers = nn.Sequential(*layers)
    for module in theirs.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=2 * module.in_features**-0.5)
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    theirs.eval()
    ours = build_head(theirs.state_dict(), torch.device("cpu"), "transcription")
    features = F.normalize(torch.randn(7, 24), dim=-1)
    with torch.no_grad():
        expected = theirs.layers(features)
        assert expected.std() > 1e-3
        assert torch.equal(ours(features), expected)
        assert torch.allclose(ours(features[:1]), expected[:1], atol=1e-6)  # one image alone: the norm's own statistics


@pytest.mark.parametrize("name", list(sets.NAMES))
def test_gradients_reach_the_image(files, name):
    scorer = load(files, name)
    pictures = torch.rand(2, 3, 60, 80, generator=torch.Generator().manual_seed(1)).requires_grad_()
    values = scorer.differentiable(["a cat", "two dogs"], pictures)
    assert values.shape == (2,) and values.dtype is torch.float32
    values.sum().backward()
    assert float(pictures.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", list(sets.NAMES))
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions_are_close_and_heads_stay_fp32(files, name, precision):
    from imagereward_core.errors import ConfigError

    if name == "aesthetic_v25":
        needs_siglip()
    config = sets.read(name, "config.json")
    scorer = RM.load_score(sets.NAMES[name], device="cpu", precision=precision, weights=files[name], config=config)
    heads = [weight for head in scorer.heads() for weight in head.parameters()]
    assert all(weight.dtype is torch.float32 for weight in heads) or (name, precision) == ("mps", "int8")
    exact = torch.tensor(scores(load(files, name), name))
    found = torch.tensor(scores(scorer, name))
    assert (found - exact).abs().max() < 0.5 * exact.std() + 0.05 * exact.abs().max()
    if precision == "int8":
        assert scorer.quantized
        with pytest.raises(ConfigError, match="no gradients"):
            scorer.differentiable(["x"], torch.rand(1, 3, 32, 32))
    else:
        assert scorer.dtype is torch.bfloat16


def test_sizes_of_the_published_models_need_no_config(tmp_path):
    """The heads of the published widths are known; of another width, a sentence says what to give."""
    from imagereward_core.errors import ConfigError
    from imagereward_core.scorers.towers.clip import heads_of

    assert [heads_of({}, width, "vision_model", "file") for width in (768, 1024, 1280)] == [12, 16, 16]
    with pytest.raises(ConfigError, match="number of attention heads"):
        heads_of({}, 80, "vision_model", "file")


def test_entries_name_their_sources_licence_and_settings():
    info = registry.get("PickScore")
    assert "not stated" in info.licence and info.sources[0].repo == "yuvalkirstain/PickScore_v1"
    assert registry.get("hpsv2.1") is registry.get("HPSv2") and registry.get("aesthetic_v25").name == "Aesthetic v2.5"
    assert registry.labelled(registry.get("MPS"), {"threshold": 0.3}) == "MPS threshold 0.3"
    assert not any(source.local_name.endswith(".pkl") for entry in registry.MODELS for source in entry.sources)
    assert len({source.local_name for entry in registry.MODELS for source in entry.sources}) == len(
        {source for entry in registry.MODELS for source in entry.sources}
    )
    assert dataclasses.replace(info, name="x").advice
