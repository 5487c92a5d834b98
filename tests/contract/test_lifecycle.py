"""One holder: loads late, reuses, moves, frees, survives Reload UI."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import RedScorer
from .fakehost import EXTENSION


@pytest.fixture
def holder(host):
    return host.part("lifecycle").holder


def test_loads_at_first_use_and_reuses(generate, loader):
    assert loader.loads == []
    generate()
    generate()
    assert loader.loads == [("ImageReward-v1.0", "cpu")]


def test_changing_the_scorer_replaces_it(generate, loader):
    generate(accordion={"scorer": "CLIP"})
    generate(accordion={"scorer": "BLIP"})
    assert [name for name, _ in loader.loads] == ["CLIP", "BLIP"]


@pytest.mark.parametrize(("option", "value"), [("device", "mps"), ("precision", "bf16")])
def test_a_changed_setting_counts_at_the_next_job(host, generate, loader, option, value):
    generate()
    host.options.data[f"imagereward_{option}"] = value
    generate()
    generate()
    assert loader.loads == [("ImageReward-v1.0", "cpu"), ("ImageReward-v1.0", value if option == "device" else "cpu")]


def test_a_replaced_model_file_is_loaded_anew(host, generate, loader):
    """A training run wrote a better model under the same name."""
    path = host.part("host").models_dir() / "mine.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"old")
    for _ in range(2):
        generate(accordion={"scorer": "mine.safetensors"})
    assert len(loader.loads) == 1
    path.write_bytes(b"better")
    generate(accordion={"scorer": "mine.safetensors"})
    assert len(loader.loads) == 2


def test_status_does_not_wait_for_a_download(generate, holder):
    seen = []

    def load(name, device, precision, folder, progress):
        with ThreadPoolExecutor() as pool:
            seen.append(pool.submit(holder.status).result(timeout=5))
        raise ValueError("enough")

    holder._load = load
    generate()
    assert seen == [{"loaded": None, "device": None, "megabytes": 0.0}]


def test_survives_reload_ui(host, generate, loader, holder):
    generate()
    listening = {name: len(callbacks) for name, callbacks in host.callbacks.lists.items()}
    for _ in range(2):
        host.load_ui()
    generate()
    assert host.part("lifecycle").holder is holder and len(loader.loads) == 1
    assert {name: len(callbacks) for name, callbacks in host.callbacks.lists.items()} == listening


def test_unload_is_idempotent_and_tells_megabytes(generate, holder):
    generate()
    assert holder.unload() == pytest.approx(250 * 1001 * 4 / 1e6)
    assert holder.unload() == 0.0
    assert holder.status() == {"loaded": None, "device": None, "megabytes": 0.0}


def test_unload_after_job(generate, holder):
    generate(accordion={"unload": True})
    assert holder.status()["loaded"] is None


@pytest.mark.parametrize(
    ("policy", "vram", "device"),
    [
        ("automatic", 8.0, "cpu"),
        ("automatic", 24.0, "cuda"),
        ("stay loaded", 8.0, "cuda"),
        ("move to CPU", 24.0, "cpu"),
        ("unload", 24.0, None),
    ],
)
def test_policies(host, generate, holder, loader, monkeypatch, policy, vram, device):
    module = host.part("host")
    rooms = []
    monkeypatch.setattr(module, "device", lambda: "cuda")
    monkeypatch.setattr(module, "vram_gb", lambda name: vram)
    monkeypatch.setattr(module, "make_room", lambda size, name: rooms.append(name))
    host.options.data["imagereward_policy"] = policy
    generate()
    assert holder.status()["device"] == device
    generate()
    assert len(loader.loads) == (2 if policy == "unload" else 1)
    assert set(rooms) == {"cuda"}  # the host's memory manager was asked first
    assert loader.scorer.moves == (["cpu", "cuda", "cpu"] if device == "cpu" else [])


def test_unload_waits_for_the_running_job(host, generate, holder):
    import threading

    generate()
    unload = threading.Thread(target=host.part("panel").unload)
    with sys.modules["modules.call_queue"].queue_lock:  # a job is running
        unload.start()
        unload.join(0.2)
        assert unload.is_alive() and holder.status()["loaded"]
    unload.join(10)
    assert not unload.is_alive() and holder.status()["loaded"] is None


def test_never_loads_while_the_host_loads_a_checkpoint(host, generate, loader, monkeypatch):
    """A1111 patches torch's layers for the whole process meanwhile; it holds this lock."""
    import threading
    import types

    lock, held = threading.Lock(), []
    monkeypatch.setitem(
        sys.modules, "modules.sd_models", types.SimpleNamespace(model_data=types.SimpleNamespace(lock=lock))
    )
    load = host.part("lifecycle").holder._load
    host.part("lifecycle").holder._load = lambda *args: held.append(lock.locked()) or load(*args)
    generate()
    assert held == [True] and not lock.locked()


def test_gpu_out_of_memory_is_retried_on_the_cpu(host, generate, holder, loader, monkeypatch):
    monkeypatch.setattr(host.part("host"), "device", lambda: "cuda")
    monkeypatch.setattr(host.part("host"), "vram_gb", lambda name: 24.0)

    class Small(type(loader.scorer)):
        def score_pairs(self, prompts, images):
            if self.device == "cuda":
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().score_pairs(prompts, images)

    loader.scorer = Small()
    processed = generate(seeds=2)
    assert loader.loads == [("ImageReward-v1.0", "cuda"), ("ImageReward-v1.0", "cpu")]
    assert "ImageReward: -0.2000" in processed.infotexts[1]
    assert processed.comments.count("scored on the CPU") == 1
    loader.scorer = RedScorer()  # there is room again
    assert "scored on the CPU" not in generate(seeds=2).comments
    assert loader.loads[2:] == [("ImageReward-v1.0", "cuda")]


def test_out_of_memory_on_the_cpu_is_an_error(generate, loader):
    loader.scorer.failure = RuntimeError("DefaultCPUAllocator: out of memory")
    processed = generate(seeds=2)
    assert len(loader.loads) == 1 and "not scored: DefaultCPUAllocator" in processed.comments


def test_weights_made_under_inference_mode_can_be_moved_later(host, holder, loader):
    import torch

    with torch.inference_mode():
        holder._load = lambda *args: type(loader.scorer)()
        holder.load("ImageReward-v1.0")
    assert not any(p.is_inference() for p in holder._held["ImageReward-v1.0"].scorer.net.parameters())


def test_download_progress_is_shown_and_can_be_cancelled(host, generate, holder):
    shown = []

    def load(name, device, precision, folder, progress):
        progress(50 << 20, 100 << 20, "ImageReward.pt")
        shown.append(host.state.textinfo)
        host.state.interrupted = True
        progress(60 << 20, 100 << 20, "ImageReward.pt")

    holder._load = load
    processed = generate(seeds=1, batch_size=1)
    assert shown == ["ImageReward: downloading ImageReward.pt: 50 of 100 MB (50 %)"] and host.state.textinfo is None
    assert "not scored: stopped by the user" in processed.comments and len(processed.images) == 1


def test_missing_weights_are_downloaded_with_progress(host, tmp_path, monkeypatch):
    import imagereward_core as RM
    from imagereward_core import weights

    asked, reports = [], []

    def locate(source, models_dir, progress):
        asked.append((source.filename, models_dir))
        progress(1, 2)

    monkeypatch.setattr(weights, "locate", locate)
    monkeypatch.setattr(RM, "load_score", lambda name, **options: (name, options))
    made = host.part("lifecycle").load_scorer("BLIP", "cpu", "auto", tmp_path, lambda *report: reports.append(report))
    assert asked == [("model_large.pth", tmp_path)] and reports == [(1, 2, "model_large.pth")]
    assert made == ("BLIP", {"device": "cpu", "precision": "auto", "models_dir": tmp_path})


def test_a_models_suffix_may_be_in_capitals(host, tmp_path):
    for name in ("MINE.SAFETENSORS", "Yours.PT", "Yours.safetensors"):
        (tmp_path / name).touch()
    assert host.part("lifecycle").available(tmp_path)[-2:] == ["MINE.SAFETENSORS", "Yours.PT"]


def test_only_known_names_are_loaded(host, tmp_path):
    lifecycle = host.part("lifecycle")
    (tmp_path / "mine.safetensors").touch()
    (tmp_path / "ImageReward.pt").touch()  # the registry's own file is listed by its name
    for name in (
        "ImageReward.fp16.safetensors",
        "yours.pt",
        "yours.safetensors",
        "yours.fp16.safetensors",
        "notes.txt",
    ):
        (tmp_path / name).touch()  # conversions are no models of their own
    assert lifecycle.available(tmp_path)[-2:] == ["mine.safetensors", "yours.pt"]
    assert "PickScore" in lifecycle.available(tmp_path)
    for name in ("../secret.pt", str(tmp_path / "mine.safetensors"), "other.pt"):
        with pytest.raises(host.part("core").errors.ModelNotFoundError, match="there is no scorer"):
            lifecycle.load_scorer(name, "cpu", "auto", tmp_path)


def test_a_real_small_model_from_the_folder(host, tmp_path):
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from imagereward_core.config import METADATA_KEY, ModelConfig, TextConfig, VisionConfig
    from imagereward_core.model import RewardModel

    torch.manual_seed(0)
    config = ModelConfig(
        VisionConfig(32, 8, 32, 1, 2), TextConfig(width=32, depth=1, heads=2, intermediate=64), 16, (16, 8)
    )
    net = RewardModel(config)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_file(
        {key: tensor.contiguous() for key, tensor in net.state_dict().items()},
        tmp_path / "tiny.safetensors",
        {METADATA_KEY: config.to_json()},
    )
    scorer = host.part("lifecycle").load_scorer("tiny.safetensors", "cpu", "auto", tmp_path)
    holder = host.part("lifecycle").ScorerHolder(host.part("host"), lambda *args: scorer)
    images = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    assert holder.score("tiny.safetensors", "a cat", images) == pytest.approx(scorer.score("a cat", images))
    assert holder.unload() > 0


def test_a_taste_is_a_scorer_like_any_other(host, tmp_path):
    """Learnt beside the host's own library: listed, loaded, described; loaded anew once it was learnt anew."""
    from PIL import Image

    import imagereward_core as RM
    from imagereward_core.library import open_library
    from imagereward_core.taste import learning
    from imagereward_core.taste.place import Base

    weights = EXTENSION / "smallworld" / "weights" / "tiny-imagereward.safetensors"
    lifecycle, names = host.part("lifecycle"), host.part("core").naming
    base = Base(names.own_model_name(weights), str(weights))
    place = host.part("host").library_place()
    assert place == tmp_path / "imagereward-library.sqlite" and "my-taste" not in lifecycle.available(tmp_path)
    with open_library(place) as library:
        learning.learn(library, base, lambda: None)
    assert "my-taste" in lifecycle.available(tmp_path)
    scorer = lifecycle.load_scorer("my-taste", "cpu", "auto", tmp_path)
    images = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    assert scorer.score("a cat", images) == RM.load(weights, device="cpu").score("a cat", images)
    assert host.part("judges").stored_name("my-taste", tmp_path).startswith("my-taste [")
    assert host.part("judges").entry("my-taste", tmp_path).key == "Taste"
    assert host.part("xyz").missing_weights("my-taste") == ""
    holder = host.part("lifecycle").ScorerHolder(host.part("host"), lifecycle.load_scorer)
    before = holder._sources("my-taste")
    with open_library(place) as library:
        learning.learn(library, base, lambda: None)
    assert holder._sources("my-taste") != before
    environment = host.part("refl_tab.libraries").environment()
    assert environment["IMAGEREWARD_LIBRARY"] == str(place)


def test_idle_cost(tmp_path):
    """Loading the extension imports no torch, no transformers, no core model code."""
    code = f"""
        import sys, pathlib
        sys.path.insert(0, {str(EXTENSION)!r})
        from tests.contract.fakehost import FakeHost
        with FakeHost(pathlib.Path({str(tmp_path)!r})) as host:
            assert host.errors == [], host.errors
            heavy = {{"torch", "transformers", "tokenizers", "safetensors"}}
            heavy |= {{"imagereward_core.model", "imagereward_core.scorers"}}
            print(sorted(heavy & set(sys.modules)))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_scorer_without_a_network_of_ours_counts_no_memory(generate, holder, loader):
    loader.scorer.net = None
    generate()
    assert holder.status()["megabytes"] == 0.0 and holder.unload() == 0.0
    assert holder.status()["loaded"] is None
