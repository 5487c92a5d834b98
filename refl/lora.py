"""Low-rank adapters on the UNet, through peft."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError, MissingDependency
from .families.base import Family
from .families.flow import FlowFamily
from .families.names import Rule, places
from .families.unet import TARGETS, UNetFamily
from .imports import before_others
from .ldm import UNetLayout, unet_module_to_ldm
from .quantised import is_quantised

ADAPTER = "default"


def _peft() -> Any:
    try:
        before_others()
        import peft
    except ImportError as error:
        raise MissingDependency(
            f"the library peft (0.6 or newer) is needed for LoRA and cannot be imported: {error}"
        ) from error
    return peft


def inject(unet: nn.Module, rank: int, alpha: float, targets: str, seed: int, family: Family | None = None) -> None:
    """Add fp32 adapters to the frozen network, in place; only they require gradients. The same seed gives the same
    start. family: of the network, where it is no UNet.
    """
    peft = _peft()
    names = family.lora_modules(unet, targets) if family else TARGETS[targets]
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, unet, adapter_name=ADAPTER)
    for name, parameter in unet.named_parameters():
        is_lora = ".lora_" in name
        parameter.requires_grad_(is_lora)
        if is_lora:
            parameter.data = parameter.data.float()


@torch.no_grad()
def assign(unet: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy saved weights into the parameters that are trained. CheckpointError if they are others."""
    trained = {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}
    if {name: tensor.shape for name, tensor in values.items()} != {
        name: parameter.shape for name, parameter in trained.items()
    }:
        raise CheckpointError("the saved weights belong to other LoRA settings or to another model")
    for name, tensor in values.items():
        trained[name].copy_(tensor)


def layers(unet: nn.Module) -> dict[str, Any]:
    """Name in the UNet → adapted layer."""
    kind = _peft().tuners.lora.LoraLayer
    return {name: module for name, module in unet.named_modules() if isinstance(module, kind)}


@contextlib.contextmanager
def disabled(unet: nn.Module) -> Iterator[None]:
    """Within, the UNet answers as before the adapters were added."""
    adapted = list(layers(unet).values())
    for layer in adapted:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted:
            layer.enable_adapters(True)


@contextlib.contextmanager
def at_strength(unet: nn.Module, strength: float) -> Iterator[None]:
    """Within, the adapters count `strength` times."""
    adapted = list(layers(unet).values())
    for layer in adapted:
        layer.scaling[ADAPTER] *= strength
    try:
        yield
    finally:
        for layer in adapted:
            layer.scaling[ADAPTER] /= strength


def weights(unet: nn.Module) -> dict[str, tuple[Tensor, Tensor, float]]:
    """UNet module name → (down, up, alpha)."""
    result = {}
    for name, layer in layers(unet).items():
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        result[name] = (down.detach(), up.detach(), float(layer.lora_alpha[ADAPTER]))
    return result


def delta(down: Tensor, up: Tensor, alpha: float, strength: float = 1.0) -> Tensor:
    """The weight change of one adapter: (alpha / rank) up @ down, in fp32, in the shape of the adapted weight."""
    rank = down.shape[0]
    change = up.float().flatten(1) @ down.float().flatten(1) * (alpha / rank * strength)
    return change.reshape(up.shape[0], *down.shape[1:])


def merged_state(unet: nn.Module, strength: float = 1.0, base: nn.Module | None = None) -> dict[str, Tensor]:
    """The UNet's plain weights with the adapters added in fp32, under its own names without adapters. base: the same
    network without adapters, to whose weights they are added; CheckpointError without one where the UNet's own are
    quantised, as they are not those of its checkpoint.
    """
    plain = unet if base is None else base
    if is_quantised(plain):
        raise CheckpointError("the network's weights are quantised, and no checkpoint may hold them")
    changes = {name: delta(*parts, strength) for name, parts in weights(unet).items()}
    state = {}
    for key, tensor in plain.state_dict().items():
        if ".lora_" in key:
            continue
        name = key.replace(".base_layer.", ".")
        module = name.rsplit(".", 1)[0]
        if name.endswith(".weight") and module in changes:
            tensor = tensor.float() + changes[module].to(tensor.device)
        state[name] = tensor
    return state


def kohya_state(
    unet: nn.Module, layout: UNetLayout, ldm_names: bool, dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """Tensors of a LoRA file as A1111 and Forge read it: `lora_unet_MODULE.{lora_down,lora_up}.weight` and `.alpha`.

    SD 1.x and 2.x use diffusers' module names, as kohya's scripts do. SDXL, and any UNet that is not laid out as the
    published ones, needs the original names (`Family.needs_ldm_names`): the hosts compute block numbers from the
    published layout.
    """
    result = {}
    for name, (down, up, alpha) in weights(unet).items():
        module = unet_module_to_ldm(layout, name) if ldm_names else name
        key = "lora_unet_" + module.replace(".", "_")
        result[f"{key}.lora_down.weight"] = down.to("cpu", dtype)
        result[f"{key}.lora_up.weight"] = up.to("cpu", dtype)
        result[f"{key}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return result


def diffusers_state(
    unet: nn.Module, dtype: torch.dtype = torch.float16, prefix: str = "unet", rules: Sequence[Rule] = ()
) -> dict[str, Tensor]:
    """The same adapters as diffusers' `load_lora_weights` takes them whatever the layout: `unet.MODULE.lora_A.weight`
    and `lora_B`, alpha / rank taken into the latter. rules: other names for the modules, one for one.

    Beside kohya's names in one file, diffusers reads these alone (a file that is not all `lora_unet_` is its own), and
    the hosts the others: A1111 cuts these names at their first dot and knows no `unet`, Forge's patches of one weight
    replace each other, and both are the same.
    """
    found, result = weights(unet), {}
    other = {parts[0]: place for place, parts in places(rules, list(found))}
    for module, (down, up, alpha) in found.items():
        name = other.get(module, module)
        result[f"{prefix}.{name}.lora_A.weight"] = down.to("cpu", dtype, copy=True)  # no storage under two names
        result[f"{prefix}.{name}.lora_B.weight"] = (up.float() * (alpha / down.shape[0])).to("cpu", dtype)
    return result


def fused_state(unet: nn.Module, family: FlowFamily, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The same adapters by the names of single files, `lora_unet_MODULE`, where the hosts know no others. One matrix
    there may be several here: the adapters of its parts stand side by side, their ranks added up.

    `reshape_weight`, the size that the weight has anyway, changes nothing, and is a name that hosts on ComfyUI's
    loader know: Forge Neo uses nothing of a file of which it does not know half of the names, and diffusers' names
    beside these are strangers to it.
    """
    found, result = weights(unet), {}
    for place, parts in places(family.rules_for_hosts, list(found)):
        layer: Callable[[str], Any] = unet.get_submodule
        rows = [int(layer(part).out_features) for part in parts]  # quantised weights have another shape
        held = [(index, *found[part]) for index, part in enumerate(parts) if part in found]
        down = torch.cat([part.float() for _, part, _, _ in held])
        up = down.new_zeros(sum(rows), len(down))
        column = 0
        for index, low, high, alpha in held:
            first, rank = sum(rows[:index]), low.shape[0]
            up[first : first + rows[index], column : column + rank] = high.float() * (alpha / rank)
            column += rank
        key = "lora_unet_" + place.replace(".", "_")
        result[f"{key}.lora_down.weight"] = down.to("cpu", dtype)
        result[f"{key}.lora_up.weight"] = up.to("cpu", dtype)
        result[f"{key}.alpha"] = torch.tensor(float(len(down)), dtype=dtype)
        result[f"{key}.reshape_weight"] = torch.tensor([len(up), down.shape[1]])  # whole numbers: they are a size
    return result


def file_state(unet: nn.Module, family: Family, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Tensors of a LoRA file that the hosts and diffusers load."""
    if isinstance(family, FlowFamily):
        named = diffusers_state(unet, dtype, family.lora_prefix, family.rules_for_lora)
        return named | fused_state(unet, family, dtype)
    assert isinstance(family, UNetFamily)
    layout = UNetLayout.of(unet.config)
    ldm_names = family.needs_ldm_names(layout)
    state = kohya_state(unet, layout, ldm_names, dtype)
    if ldm_names and not family.diffusers_maps_blocks:
        state |= diffusers_state(unet, dtype)
    return state
