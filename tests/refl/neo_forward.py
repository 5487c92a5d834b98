"""A program for test_neo_keys.py: Forge Neo's own modules beside ours, on the same random weights.

python -m tests.refl.neo_forward TREE [FAMILY ...] prints as JSON, by family, how long the difference of what they give
is, for Neo's length 1. The networks have few and narrow layers; everything else is as Neo sets it for the published
ones. A process of its own, for neo_keys.py's reasons.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SAID = ("a red fox", "blue", "")  # the host asks about each for itself
SIGMA, SIDES, ROWS = (0.9, 0.35), (32, 24), 40  # rows of text, which Z-Image fills up to 64
SMALL: dict[str, dict[str, Any]] = {  # sizes in Neo's words
    "anima": {
        "model_channels": 96,
        "num_heads": 2,
        "num_blocks": 3,
        "crossattn_emb_channels": 32,
        "adaln_lora_dim": 8,
    },
    "flux": {"hidden_size": 256, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "context_in_dim": 32},
    "flux2": {"hidden_size": 256, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "context_in_dim": 32},
    "lumina2": {"dim": 192, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "cap_feat_dim": 32},
    "qwen-image": {"num_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 32},
    "z-image": {  # as wide as what it makes of the time, and a width of which 8/3 are whole 256s
        "dim": 1536,
        "n_layers": 1,
        "n_refiner_layers": 1,
        "n_heads": 12,
        "n_kv_heads": 12,
        "cap_feat_dim": 32,
    },
}
FILMS = ("anima", "qwen-image")  # a picture is a film's only frame there
ROUNDED = ("anima",)  # Neo has its rotary powers in half precision


def filled(net: Any) -> Any:
    """Random weights of which none is zero or one, and which leave numbers about as large as they are."""
    import torch

    for name, parameter in net.float().named_parameters():
        std = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.25
        torch.nn.init.normal_(parameter, mean=float("norm" in name and parameter.ndim == 1), std=std)
    return net.eval()


def apart(found: Any, wanted: Any) -> float:
    """Length of the difference for a length of 1."""
    return float((found - wanted).norm() / wanted.norm())


def network(key: str) -> dict[str, float]:
    """The transformer: as Neo has it, and where it rounds, also without that."""
    import torch
    from backend.args import dynamic_args

    from refl.checkpoints.modules import build
    from refl.conditioning import Conditioning
    from refl.families import FLOWS
    from refl.families.flux import GUIDANCE

    from .neo_keys import built, published, settings

    family = FLOWS[key]
    sizes = settings(published(key, {})[1], family.network).unet_config | SMALL[key]
    theirs = filled(built(family.network, sizes))
    dynamic_args.ref_latents = []
    state = family.renamed(theirs.state_dict())
    ours = build(family.network, family.sizes(state), state, torch.float32, "Neo's").eval()
    channels = family.channels(ours.config)  # type: ignore[arg-type]
    x, sigma, context = torch.randn(2, channels, *SIDES), torch.tensor(SIGMA), torch.randn(2, ROWS, 32)
    pooled, more = None, {}
    if key == "flux":
        pooled = torch.randn(2, sizes["vec_in_dim"])
        more = {"y": pooled, "guidance": torch.full((2,), GUIDANCE)}
    found = family.velocity(ours, x, sigma, Conditioning(context, pooled, mask=torch.ones(2, ROWS, dtype=torch.bool)))

    def of_theirs() -> Any:
        if key in FILMS:
            return theirs(x.unsqueeze(2), sigma, context, **more)[:, :, 0]
        return theirs(x.clone(), sigma, context.clone(), **more)

    result = {"network": apart(found, of_theirs())}
    if key in ROUNDED:
        half = torch.float16
        try:
            torch.float16 = torch.float32  # what its table asks for by name
            result["network_exact"] = apart(found, of_theirs())
        finally:
            torch.float16 = half
    return result


# --- prompts ---------------------------------------------------------------------------------------------------------


def language_model(kind: str, net: Any, settings: str) -> Any:
    """Neo's of that name, and of its settings' name, with the weights of transformers' Qwen or Gemma."""
    import torch
    from backend.nn.llm import llama

    config, sizes = net.config, getattr(llama, settings)()
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        setattr(sizes, name, getattr(config, name))
    sizes.num_key_value_heads, sizes.head_dim = config.num_key_value_heads, net.layers[0].self_attn.head_dim
    sizes.rope_theta = float((getattr(config, "rope_parameters", None) or vars(config))["rope_theta"])
    model = getattr(llama, kind)
    theirs = model.__new__(model)
    torch.nn.Module.__init__(theirs)
    plain = torch.nn.RMSNorm

    class Norm(plain):  # as the host's own, which knows a word more
        def __init__(self, *given: Any, add: bool = False, **more: Any):
            super().__init__(*given, **more)
            self.more = float(add)  # Gemma's weights are what is added to one

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.rms_norm(x, self.normalized_shape, self.weight + self.more, self.eps)

    torch.nn.RMSNorm = Norm  # type: ignore[misc]
    theirs.model = llama.Llama2_(sizes)
    torch.nn.RMSNorm = plain  # type: ignore[misc]
    theirs.model.load_state_dict(net.state_dict())
    return theirs


def with_words_of(tree: Path, repository: str, folder: Path) -> None:
    """The tree's own tokeniser for a model in place of the tiny one, and a text encoder that knows as many words."""
    import transformers

    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(tree / "backend" / "huggingface" / repository / "tokenizer", folder / "tokenizer")
    config = transformers.AutoConfig.from_pretrained(folder / "text_encoder")
    words = getattr(config, "text_config", config)
    words.vocab_size = len(transformers.AutoTokenizer.from_pretrained(folder / "tokenizer"))
    words.rms_norm_eps = 1e-6  # of all published ones; transformers' own number for Qwen2.5-VL is another
    if hasattr(words, "query_pre_attn_scalar"):
        words.query_pre_attn_scalar = words.head_dim  # as in Gemma 2 2B
    if words is not config:  # Neo's engine counts columns where it means rows, and needs more than 34
        words.hidden_size, words.num_attention_heads, words.num_key_value_heads = 64, 4, 4
    getattr(transformers, config.architectures[0])(config).save_pretrained(folder / "text_encoder")


def anima_engine(text: Any) -> Any:
    """Neo's engine with the tiny model's Qwen3, adapter and tokenisers."""
    import torch
    from backend.nn.anima import LLMAdapter
    from backend.text_processing.anima_engine import AnimaTextProcessingEngine

    qwen, adapter = text.parts
    theirs = language_model("Qwen3_06B", qwen.net, "Qwen3_06BConfig")
    theirs.llm_adapter = LLMAdapter(32, 32, 32, num_layers=len(adapter.net.blocks), num_heads=2)
    theirs.llm_adapter.embed = torch.nn.Embedding(*adapter.net.embed.weight.shape)
    for block in theirs.llm_adapter.blocks:
        hidden = adapter.net.blocks[0].mlp[0].out_features
        block.mlp = torch.nn.Sequential(torch.nn.Linear(32, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, 32))
    theirs.llm_adapter.load_state_dict(adapter.net.state_dict())
    engine = AnimaTextProcessingEngine(theirs, qwen.tokenizer, adapter.tokenizer)
    engine.id_pad = qwen.tokenizer.pad_token_id  # Qwen's own, of a tokeniser with another list of words
    return engine


def klein_engine(text: Any) -> Any:
    """Neo's engine as it is, with Qwen3 made small."""
    from backend.text_processing.klein_engine import KleinTextProcessingEngine

    return KleinTextProcessingEngine(
        language_model("Qwen3_4B", text.parts[0].net, "Qwen3_4BConfig"), text.parts[0].tokenizer
    )


def z_image_engine(text: Any) -> Any:
    """Neo's engine as it is, with Qwen3 made small."""
    from backend.text_processing.qwen3_engine import Qwen3TextProcessingEngine

    return Qwen3TextProcessingEngine(
        language_model("Qwen3_4B", text.parts[0].net, "Qwen3_4BConfig"), text.parts[0].tokenizer
    )


def lumina2_engine(text: Any) -> Any:
    """Neo's engine with Gemma 2 made small, asked as ours asks: it leaves a prompt alone that has its beginning."""
    from backend.text_processing.gemma_engine import GemmaTextProcessingEngine

    from refl.families.lumina2 import BEFORE

    net = text.parts[0].net
    engine = GemmaTextProcessingEngine(language_model("Gemma2_2B", net, "Gemma2_2B_Config"), text.parts[0].tokenizer)

    class Prompts(list[str]):
        is_negative_prompt = False

    return lambda said: engine(Prompts(BEFORE + prompt for prompt in said))


def qwen_image_engine(text: Any) -> Any:
    """Neo's engine as it is, with Qwen2.5-VL made small, of which it asks the language model alone."""
    from backend.text_processing.qwen_engine import QwenTextProcessingEngine

    net = text.parts[0].net.model.language_model
    return QwenTextProcessingEngine(language_model("Qwen25_7BVLI", net, "Qwen25_7BVLI_Config"), text.parts[0].tokenizer)


ENGINES: dict[str, Callable[[Any], Any]] = {
    "anima": anima_engine,
    "flux2": klein_engine,
    "lumina2": lumina2_engine,
    "qwen-image": qwen_image_engine,
    "z-image": z_image_engine,
}
WORDS = {
    "flux2": "black-forest-labs/FLUX.2-klein-4B",
    "lumina2": "neta-art/Neta-Lumina",
    "qwen-image": "Qwen/Qwen-Image",
    "z-image": "Tongyi-MAI/Z-Image-Turbo",
}


def prompts(key: str, tree: Path, folder: Path) -> dict[str, float]:
    """Neo's text engine beside our encoding: both tokenise, and nothing said counts."""
    import torch

    from refl.backend import load_backend

    if key in WORDS:
        with_words_of(tree, WORDS[key], folder)
    text = load_backend(folder).text
    said = SAID[: 2 if key == "lumina2" else 3]  # before nothing Neo puts a beginning there that its user may change
    found = text.encode(said, 32)
    wanted = torch.cat([rows.flatten(0, -2) for rows in ENGINES[key](text)(list(said))])
    rows = [context[:length] for context, length in zip(found.context, found.lengths())]
    return {"prompts": apart(torch.cat(rows), wanted)}


# --- pictures --------------------------------------------------------------------------------------------------------


def klein_vae(folder: Path) -> dict[str, float]:
    """Neo's autoencoder, saved as the WebUIs keep it and read by ours: latents' means, and pictures."""
    import torch
    from backend.nn import vae
    from safetensors.torch import save_file

    from refl.checkpoints.external import load_vae
    from refl.families import FLOWS

    family = FLOWS["flux2"]
    theirs = filled(vae.AutoencoderKLFlux2(block_out_channels=(32, 32, 32, 32), layers_per_block=1, latent_channels=32))
    theirs.bn.running_mean.normal_()
    theirs.bn.running_var.uniform_(0.5, 2)
    save_file(theirs.state_dict(), str(folder / "vae.safetensors"))
    ours = load_vae(str(folder / "vae.safetensors"), torch.float32, family).eval()
    vae.DiagonalGaussianDistribution.sample = vae.DiagonalGaussianDistribution.mode  # no noise
    pictures = torch.rand(2, 3, 64, 48) * 2 - 1
    latents = theirs.encode(pictures)
    return {
        "latents": apart(family.encode(ours, pictures, 1.0), latents),
        "pictures": apart(family.decode(ours, latents, 1.0), theirs.decode(latents)),
    }


def beside(key: str, tree: Path, folders: Mapping[str, Path]) -> dict[str, float]:
    """All that is compared for a family. folders: of tiny models."""
    import torch

    torch.manual_seed(0)
    found = network(key)
    if key in ENGINES:
        found |= prompts(key, tree, folders[key])
    if key == "flux2":
        found |= klein_vae(folders[key])
    return found


if __name__ == "__main__":
    tree, keys = Path(sys.argv[1]), sys.argv[2:] or sorted(SMALL)
    import torch

    from . import flows
    from .neo_keys import without_torchvision

    with tempfile.TemporaryDirectory() as place:
        folders = {key: flows.write(Path(place), key) for key in keys if key in ENGINES}
        sys.argv = [sys.argv[0], "--cpu"]
        sys.path[:0] = [str(tree), str(tree / "modules_forge" / "packages")]
        without_torchvision()
        import modules

        modules.shared = types.ModuleType("modules.shared")
        modules.shared.opts = types.SimpleNamespace(emphasis="Original")  # type: ignore[attr-defined]
        sys.modules["modules.shared"] = modules.shared
        with torch.no_grad():
            answer = {key: beside(key, tree, folders) for key in keys}
    print("\n" + json.dumps({"torch": torch.__version__, **answer}))
