"""SigLIP's vision tower (Zhai et al. 2023): transformers' class where this transformers has it (4.37 and later), else
timm's. tests/parity holds the two equal.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import weights
from ...errors import ConfigError, ModelNotFoundError, WeightsError
from ...model.activations import use_in_place
from ..base import building
from ..loading import size

PROBE = "vision_model.head.probe"
PREFIX = "vision_model."
HEADS = {768: 12, 1024: 16, 1152: 16}  # of the published towers
EPS = 1e-6
ACT = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class SiglipSizes:
    """The vision tower's sizes; `image` and `patch` in pixels."""

    width: int
    hidden: int
    layers: int
    heads: int
    image: int
    patch: int


class VisionTower(nn.Module):
    """Pixels [B, 3, S, S] → the pooled image feature [B, W]."""

    def __init__(self, net: nn.Module, image_size: int, pool: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.net = net
        self.image_size = image_size
        self.pool = pool

    def forward(self, pixels: Tensor) -> Tensor:
        return self.pool(self.net, pixels)


def siglip_sizes(state: Mapping[str, Tensor], config: Mapping[str, Any], path: str) -> SiglipSizes:
    """Sizes by the tensors' shapes; the heads from `num_attention_heads` of the config or the published towers."""
    try:
        patch = state[PREFIX + "embeddings.patch_embedding.weight"]
        places = state[PREFIX + "embeddings.position_embedding.weight"].shape[0]
        hidden = state[PREFIX + "encoder.layers.0.mlp.fc1.weight"].shape[0]
        state[PROBE]
    except KeyError as error:
        kind = weights.recognise(state.keys()) or "no kind of file known here"
        raise WeightsError(f"{path} is {kind}; SigLIP's vision tower is wanted ({error} is missing)") from error
    found = re.compile(re.escape(PREFIX) + r"encoder\.layers\.(\d+)\.")
    layers = 1 + max(int(match[1]) for match in map(found.match, state) if match)
    width = patch.shape[0]
    heads = config.get("num_attention_heads", HEADS.get(width))
    if heads is None:
        raise ConfigError(
            f"{path} holds a vision tower of width {width}, and a file does not tell its number of attention heads:"
            ' give a config, such as {"vision": {"num_attention_heads": 6}}'
        )
    if width % size(heads, "vision: num_attention_heads"):
        raise ConfigError(f"vision: width {width} is not a multiple of {heads} attention heads")
    image = round(math.sqrt(places)) * patch.shape[-1]
    image = size(config.get("image_size", image), "vision: image_size")
    return SiglipSizes(width, hidden, layers, heads, image, patch.shape[-1])


@building()
def build_siglip(
    state: Mapping[str, Tensor], sizes: SiglipSizes, dtype: torch.dtype, device: torch.device, path: str
) -> VisionTower:
    """The tower holding `state` (transformers' names). Raises ModelNotFoundError where neither library has it."""
    try:
        from transformers import SiglipVisionConfig, SiglipVisionModel
    except ImportError as first:
        try:
            return timm_tower(state, sizes, dtype, device, path)
        except ImportError as second:
            raise ModelNotFoundError(
                "Aesthetic v2.5 needs SigLIP, from transformers>=4.37 or from timm>=0.9.9, and neither is here"
                f" ({first}; {second}): install one of them"
            ) from second
    return hub_tower(state, sizes, dtype, device, path, SiglipVisionConfig, SiglipVisionModel)


def hub_tower(
    state: Mapping[str, Tensor],
    sizes: SiglipSizes,
    dtype: torch.dtype,
    device: torch.device,
    path: str,
    config: Any,
    model: Any,
) -> VisionTower:
    """transformers' tower."""
    with torch.device("meta"):
        net = model(
            config(
                hidden_size=sizes.width,
                intermediate_size=sizes.hidden,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                image_size=sizes.image,
                patch_size=sizes.patch,
                hidden_act=ACT,
                layer_norm_eps=EPS,
            )
        )
    wanted = net.state_dict()
    named = dict(state)
    if wanted and not any(key.startswith(PREFIX) for key in wanted):  # releases that dropped the outer name
        named = {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}
    constants = [key for key in wanted if key.endswith("position_ids")]
    named = weights.checked(named, net, constants, path)
    for key in constants:
        named.setdefault(key, torch.arange(wanted[key].shape[-1]).expand(1, -1).clone())
    net.load_state_dict(placed(named, dtype, device), strict=True, assign=True)
    for part in net.modules():  # buffers that are in no checkpoint are still on the meta device
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(part, name, torch.arange(buffer.shape[-1], device=device).expand(1, -1).clone())
    use_in_place(net, "activation_fn", ACT)
    net = net.eval().requires_grad_(False)
    return VisionTower(net, sizes.image, lambda tower, pixels: tower(pixel_values=pixels).pooler_output)


TIMM_NAMES = (
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("post_layernorm", "norm"),
    ("head.probe", "attn_pool.latent"),
    ("head.layernorm", "attn_pool.norm"),
    ("head.attention.out_proj", "attn_pool.proj"),
    ("head.mlp", "attn_pool.mlp"),
    ("encoder.layers.", "blocks."),
    ("layer_norm", "norm"),
    ("self_attn.out_proj", "attn.proj"),
)


def timm_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names → timm's, with queries, keys and values joined as timm has them."""
    out: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name = key.removeprefix(PREFIX)
        for old, new in TIMM_NAMES:
            name = name.replace(old, new)
        part = re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        pool = re.fullmatch(r"head\.attention\.in_proj_(weight|bias)", name)
        if part:
            joined.setdefault(f"{part[1]}.attn.qkv.{part[3]}", {})[part[2]] = tensor
        elif pool:
            query, rest = tensor.split((len(tensor) // 3, len(tensor) - len(tensor) // 3))
            out[f"attn_pool.q.{pool[1]}"], out[f"attn_pool.kv.{pool[1]}"] = query, rest
        else:
            out[name] = tensor[None] if name == "pos_embed" else tensor
    out.update({name: torch.cat([parts[letter] for letter in "qkv"]) for name, parts in joined.items()})
    return out


def timm_tower(
    state: Mapping[str, Tensor], sizes: SiglipSizes, dtype: torch.dtype, device: torch.device, path: str
) -> VisionTower:
    """timm's tower. Raises ImportError where there is no timm that works."""
    try:
        from timm.models.vision_transformer import VisionTransformer
    except RuntimeError as error:  # what a torchvision that does not fit this torch raises
        raise ImportError(f"timm cannot be imported: {error}") from error
    net = VisionTransformer(
        img_size=sizes.image,
        patch_size=sizes.patch,
        embed_dim=sizes.width,
        depth=sizes.layers,
        num_heads=sizes.heads,
        mlp_ratio=(sizes.hidden + 0.5) / sizes.width,
        class_token=False,
        global_pool="map",
        num_classes=0,
        act_layer=functools.partial(nn.GELU, approximate="tanh"),
    )
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = EPS
        if type(module) is nn.GELU:
            module.approximate = "tanh"  # also in the pooling layer, where older releases have the exact form
    use_in_place(net, "act", ACT)
    named = weights.checked(timm_state(state), net, (), path)
    net.load_state_dict(placed(named, dtype, device), strict=True, assign=True)
    return VisionTower(net.eval().requires_grad_(False), sizes.image, lambda tower, pixels: tower(pixels))


def placed(state: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """The tensors on the device, floating-point ones in `dtype`."""
    return {key: tensor.to(device, dtype if tensor.is_floating_point() else None) for key, tensor in state.items()}
