"""A program for test_neo_keys.py: Forge Neo's own modules of Anima beside ours, on the same random weights.

python -m tests.refl.neo_anima TREE prints as JSON how long the difference of what they give is, for Neo's length 1.
A process of its own, for neo_keys.py's reasons.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

SAID = ("a red fox", "blue", "")  # the host asks about each for itself
SIGMA, CELLS = (0.9, 0.35), 32


def filled(net: Any) -> Any:
    """Random weights of which none is zero or one."""
    import torch

    for name, parameter in net.float().named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.25)
    return net.eval()


def network() -> dict[str, float]:
    """The transformer: as Neo has it, whose rotary powers are in half precision, and with these in single precision."""
    import torch
    from backend.args import dynamic_args
    from backend.nn.anima import Anima

    from refl.checkpoints.modules import build
    from refl.conditioning import Conditioning
    from refl.families import FLOWS

    family = FLOWS["anima"]
    sizes = {"in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 96}
    sizes |= {"num_heads": 2, "num_blocks": 3, "crossattn_emb_channels": 32, "adaln_lora_dim": 8}
    ratios = {"rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0, "rope_t_extrapolation_ratio": 1.0}
    theirs = filled(Anima(**sizes, **ratios))
    dynamic_args.ref_latents = []
    state = family.renamed({f"net.{name}": tensor for name, tensor in theirs.state_dict().items()})
    ours = build(family.network, family.sizes(state), state, torch.float32, "Neo's").eval()
    x, sigma, context = torch.randn(2, 16, CELLS, CELLS), torch.tensor(SIGMA), torch.randn(2, 512, 32)
    found = family.velocity(ours, x, sigma, Conditioning(context))
    as_it_is = theirs(x.unsqueeze(2), sigma, context)[:, :, 0]
    half = torch.float16
    try:
        torch.float16 = torch.float32  # what its table asks for by name
        exact = theirs(x.unsqueeze(2), sigma, context)[:, :, 0]
    finally:
        torch.float16 = half
    size = exact.norm()
    return {"network": float((found - as_it_is).norm() / size), "network_exact": float((found - exact).norm() / size)}


def prompts(folder: Path) -> dict[str, float]:
    """Neo's text engine with the tiny model's Qwen3, adapter and tokenisers: both tokenise, and nothing said counts."""
    import torch
    from backend.nn.anima import LLMAdapter
    from backend.nn.llm import llama

    from refl.backend import load_backend

    text = load_backend(folder).text
    qwen, adapter = text.parts
    config, sizes = qwen.net.config, llama.Qwen3_06BConfig()
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        setattr(sizes, name, getattr(config, name))
    sizes.num_key_value_heads, sizes.head_dim = config.num_key_value_heads, config.head_dim
    sizes.rope_theta = float((getattr(config, "rope_parameters", None) or vars(config))["rope_theta"])
    theirs = llama.Qwen3_06B.__new__(llama.Qwen3_06B)
    torch.nn.Module.__init__(theirs)
    plain = torch.nn.RMSNorm

    class Norm(plain):  # the host's own knows a word more, for other models
        def __init__(self, *given: Any, add: bool = False, **more: Any):
            super().__init__(*given, **more)

    torch.nn.RMSNorm = Norm  # type: ignore[misc]
    theirs.model = llama.Llama2_(sizes)
    torch.nn.RMSNorm = plain  # type: ignore[misc]
    theirs.llm_adapter = LLMAdapter(32, 32, 32, num_layers=len(adapter.net.blocks), num_heads=2)
    theirs.llm_adapter.embed = torch.nn.Embedding(*adapter.net.embed.weight.shape)
    for block in theirs.llm_adapter.blocks:
        hidden = adapter.net.blocks[0].mlp[0].out_features
        block.mlp = torch.nn.Sequential(torch.nn.Linear(32, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, 32))
    theirs.model.load_state_dict(qwen.net.state_dict())
    theirs.llm_adapter.load_state_dict(adapter.net.state_dict())

    import modules

    modules.shared = types.ModuleType("modules.shared")
    modules.shared.opts = types.SimpleNamespace(emphasis="Original")  # type: ignore[attr-defined]
    sys.modules["modules.shared"] = modules.shared
    from backend.text_processing.anima_engine import AnimaTextProcessingEngine

    engine = AnimaTextProcessingEngine(theirs, qwen.tokenizer, adapter.tokenizer)
    engine.id_pad = qwen.tokenizer.pad_token_id  # Qwen's own, of a tokeniser with another list of words
    found, wanted = text.encode(SAID, 32).context, torch.cat(engine(list(SAID)))
    return {"prompts": float((found - wanted).norm() / wanted.norm())}


if __name__ == "__main__":
    tree = Path(sys.argv[1])
    import torch

    from . import flows
    from .neo_keys import without_torchvision

    model = flows.write(Path(tempfile.mkdtemp()), "anima")
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path[:0] = [str(tree), str(tree / "modules_forge" / "packages")]
    without_torchvision()
    torch.manual_seed(0)
    with torch.no_grad():
        print("\n" + json.dumps({"torch": torch.__version__, **network(), **prompts(model)}))
    shutil.rmtree(model.parent)
