"""A program for test_neo_keys.py: Forge Neo's own code is asked which keys of our LoRA files it takes.

python -m tests.refl.neo_keys TREE prints what it found as JSON. A process of its own, because Neo reads the command
line where it is imported, and its packages have common names. Nothing is computed by a network: both are built in their
published size on the meta device; only the adapters (rank 1) have numbers.
"""

from __future__ import annotations

import ast
import importlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from benchmarks.refl_memory import SIZES

RANK = 1
TARGETS = ("attention", "attention+ff")
LOADER = "load_lora_for_models"
NETWORKS = "extensions-builtin/sd_forge_lora/networks.py"
CLASSES = {  # as its loader chooses them by the names of diffusers
    "FluxTransformer2DModel": ("backend.nn.flux", "IntegratedFluxTransformer2DModel"),
    "Flux2Transformer2DModel": ("backend.nn.flux", "IntegratedFluxTransformer2DModel"),
    "Lumina2Transformer2DModel": ("backend.nn.lumina", "NextDiT"),
    "ZImageTransformer2DModel": ("backend.nn.lumina", "NextDiT"),
    "QwenImageTransformer2DModel": ("backend.nn.qwen", "QwenImageTransformer2DModel"),
    "CosmosTransformer3DModel": ("backend.nn.anima", "Anima"),
}
LARGER = {"flux2-9B": SIZES["FLUX.2 klein 9B"]}  # name: (family, what differs from the family's own sizes)
TOLD_BY = {"CosmosTransformer3DModel": "llm_adapter.blocks.0.cross_attn.q_proj.weight"}  # what lies beside the network


def without_torchvision() -> None:
    """Neo's module of Anima asks it for a function that it does not call for pictures without a mask, as ours are.
    diffusers' classes are looked up first: they ask whether it is there.
    """
    import diffusers

    from refl.families import FLOWS

    for family in FLOWS.values():
        getattr(diffusers, family.network, None), getattr(diffusers, family.autoencoder, None)
    try:
        import torchvision  # noqa: F401
    except ImportError:
        names = ModuleType("torchvision.transforms")
        names.InterpolationMode, names.functional = None, None  # type: ignore[attr-defined]
        sys.modules["torchvision"], sys.modules["torchvision.transforms"] = ModuleType("torchvision"), names


def rules_of(key: str) -> tuple[Any, ...]:
    """Names of single files → diffusers' names; none where they are the same."""
    return getattr(importlib.import_module(f"refl.families.{key.replace('-', '_')}"), "RULES", ())


def published(key: str, changes: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(network of diffusers, its weights under the names of single files), without values. changes: of its sizes."""
    from refl.checkpoints.modules import empty
    from refl.families import FLOWS

    from .test_flows import FILES, as_in_a_file

    family = FLOWS[key]
    net = empty(family.network, {**family.unet, **changes})
    return net, as_in_a_file(net.state_dict(), rules_of(key), FILES.get(key, ""))


def adapters(net: Any, key: str, targets: str) -> dict[str, Any]:
    """Our LoRA file of a network without values, which gets random adapters."""
    import torch

    from refl import lora
    from refl.families import FLOWS

    family = FLOWS[key]
    lora.inject(net, RANK, float(RANK), targets, 0, family)
    torch.manual_seed(0)
    for module in net.modules():
        for name, one in list(module.named_parameters(recurse=False)):
            if one.requires_grad:  # the adapters; the rest stays without values
                setattr(module, name, torch.nn.Parameter(torch.randn(one.shape)))
    return lora.file_state(net, family, torch.float32)


class Patcher:
    """What Neo's function asks of its UnetPatcher: it keeps what it is given."""

    def __init__(self, model: Any):
        self.model = model
        self.patches: dict[Any, Any] = {}

    def clone(self) -> Patcher:
        return Patcher(self.model)

    def add_patches(self, filename: str, patches: dict[Any, Any], **_: Any) -> set[Any]:
        """As there: a patch of a weight that the model has is taken."""
        held = self.model.state_dict()
        self.patches = {at: one for at, one in patches.items() if (at if isinstance(at, str) else at[0]) in held}
        return set(self.patches)


def loader(tree: Path) -> Any:
    """Neo's load_lora_for_models itself, without the module around it, which needs a running host."""
    from backend.patcher.lora import load_lora, model_lora_keys_clip, model_lora_keys_unet

    text = (tree / NETWORKS).read_text(encoding="utf-8")
    wanted = [part for part in ast.parse(text).body if getattr(part, "name", "") in (LOADER, "process_anima")]
    bound = {
        "dynamic_args": SimpleNamespace(nunchaku=False),
        "load_lora": load_lora,
        "model_lora_keys_clip": model_lora_keys_clip,
        "model_lora_keys_unet": model_lora_keys_unet,
        "logger": logging.getLogger("neo"),
        "os": os,
    }
    exec(compile("from __future__ import annotations\n" + "\n".join(map(ast.unparse, wanted)), NETWORKS, "exec"), bound)
    return bound[LOADER]


def square(down: Any, up: Any, alpha: float) -> float:
    """Sum of the squares of the change (alpha / rank) up @ down, without making it."""
    return (alpha / len(down)) ** 2 * float(((up.T @ up) * (down @ down.T)).sum())


def expected(net: Any, key: str) -> dict[str, float]:
    """Weight of the host, @ and the first row → sum of the squares of the change that our adapters make there. Parts of
    one fused matrix are told apart by their rows, but for the families whose file has them fused.
    """
    from refl import lora
    from refl.families import FLOWS
    from refl.families.names import places

    held = {name: square(down, up, alpha) for name, (down, up, alpha) in lora.weights(net).items()}
    result = {}
    for place, parts in places(rules_of(key), list(held)) if rules_of(key) else [(name, [name]) for name in held]:
        sizes = [net.get_submodule(part).weight.shape[0] for part in parts]
        if FLOWS[key].rules_for_hosts:
            result[f"diffusion_model.{place}.weight@0"] = sum(held.pop(part, 0.0) for part in parts)
            continue
        for index, part in enumerate(parts):
            if part in held:
                result[f"diffusion_model.{place}.weight@{sum(sizes[:index])}"] = held.pop(part)
    result.update({f"diffusion_model.{name}.weight@0": square for name, square in held.items()})  # of the same name
    return result


def settings(plain: dict[str, Any], network: str) -> Any:
    """What Neo finds a model to be by its weights under the names of single files."""
    import torch
    from huggingface_guess import guess

    beside = {TOLD_BY[network]: torch.zeros(1)} if network in TOLD_BY else {}
    return guess({f"model.diffusion_model.{name}": tensor for name, tensor in (plain | beside).items()})


def built(network: str, sizes: Mapping[str, Any]) -> Any:
    """Neo's network for a class of diffusers."""
    place, name = CLASSES[network]
    return getattr(importlib.import_module(place), name)(**sizes)


def host_model(plain: dict[str, Any], network: str) -> tuple[Any, dict[str, Any]]:
    """Neo's model of weights under the names of single files, on the meta device, and its shapes."""
    import torch

    config = settings(plain, network)
    with torch.device("meta"):
        net = built(network, config.unet_config)
    net.config = config.unet_config
    model = torch.nn.Module()
    model.diffusion_model, model.config = net, config
    return model, {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


def main(tree: Path, name: str, targets: str) -> dict[str, Any]:
    """Neo's answer about one family, or one of LARGER. An empty one where it has no class for it."""
    import torch

    from refl import lora
    from refl.families import FLOWS

    key, changes = LARGER.get(name, (name, {}))
    network = FLOWS[key].network
    if network not in CLASSES:
        text = (tree / "backend" / "loader.py").read_text(encoding="utf-8")
        return {"known": network in text}
    net, plain = published(key, changes)
    state = adapters(net, key, targets)
    model, shapes = host_model(plain, network)
    with torch.no_grad():
        patched, _ = loader(tree)(Patcher(model), None, dict(state), 1.0, 1.0, "ours.safetensors")
    found = {}
    for at, patch in patched.patches.items():
        weight, start, rows = (at, 0, None) if isinstance(at, str) else (at[0], at[1][1], at[1][2])
        size = model.state_dict()[weight].shape
        up, down, alpha = patch.weights[:3]
        fits = [up.shape[0], down.shape[1]] == [rows or size[0], size[1]]
        found[f"{weight}@{start}"] = (fits, square(down, up, alpha or len(down)))
    wanted = expected(net, key)
    missing = sorted(set(shapes) - set(plain)), sorted(set(plain) - set(shapes))
    return {
        "known": True,
        "adapters": len(lora.layers(net)),
        "wanted": wanted,
        "found": found,
        "of_file": len(state),
        "host_only": missing[0],
        "file_only": missing[1],
        "other_shapes": [name for name, size in shapes.items() if name in plain and list(plain[name].shape) != size],
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.argv = [sys.argv[0], "--cpu"]  # Neo's switch, and nothing of ours
    sys.path[:0] = [str(folder), str(folder / "modules_forge" / "packages")]
    from refl.families import FLOWS

    without_torchvision()
    print(json.dumps({name: {part: main(folder, name, part) for part in TARGETS} for name in (*FLOWS, *LARGER)}))
