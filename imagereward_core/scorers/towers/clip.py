"""CLIP's two towers (transformers' CLIPModel) from any published layout: Hugging Face's, OpenAI's and open_clip's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ... import weights
from ...errors import ConfigError, ModelNotFoundError, WeightsError
from ...model.activations import use_in_place
from ..base import building
from ..loading import section, size, without_prefix

if TYPE_CHECKING:
    from transformers import CLIPModel

CONSTANT = re.compile(r".*embeddings\.position_ids$")  # stored by older exporters, a buffer in newer releases
OPEN_CLIP = "visual.conv1.weight"
HUB = "vision_model.embeddings.class_embedding"
ANCHORS = (HUB, OPEN_CLIP)
HEADS = {512: 8, 768: 12, 1024: 16, 1280: 16}  # of the published towers; a file does not say it
LOGIT_SCALE = math.log(1 / 0.07)  # CLIP's own start, for files of towers alone, which no score of a cosine uses


@dataclass(frozen=True)
class Tower:
    """A transformer's sizes; `act` is the activation's name in transformers."""

    width: int
    layers: int
    heads: int
    hidden: int
    act: str


@dataclass(frozen=True)
class ClipSizes:
    """Both towers and the joint space."""

    text: Tower
    vision: Tower
    vocabulary: int
    positions: int
    patch: int
    image: int
    projection: int

    def config(self) -> Any:
        """A CLIPConfig. Raises ModelNotFoundError where transformers is missing or broken."""
        text = {**_arguments(self.text), "vocab_size": self.vocabulary, "max_position_embeddings": self.positions}
        vision = {**_arguments(self.vision), "patch_size": self.patch, "image_size": self.image}
        return clip_config(text, vision, self.projection)


def _arguments(tower: Tower) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.hidden,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": tower.act,
    }


def clip_config(text: Mapping[str, Any], vision: Mapping[str, Any], projection: int) -> Any:
    """A CLIPConfig of these sizes (quick_gelu unless they say otherwise). Raises ModelNotFoundError where transformers
    is missing or broken.
    """
    try:
        from transformers import CLIPConfig
    except ImportError as error:
        raise ModelNotFoundError(
            f"the CLIP scorers need the package transformers, which cannot be imported here ({error}): install"
            " transformers>=4.30, or use ImageReward, BLIP or CycleReward, which do without"
        ) from error
    shared: dict[str, Any] = {"projection_dim": projection}
    act = {"hidden_act": "quick_gelu"}
    return CLIPConfig(
        text_config=act | dict(text) | shared, vision_config=act | dict(vision) | shared, projection_dim=projection
    )


def hub_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The towers' tensors under Hugging Face's names, whatever layout and prefix they come in; others as they are."""
    state = without_prefix(state, ANCHORS)
    if OPEN_CLIP not in state:
        return state
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        for name, value in _renamed(key, tensor):
            out[name] = value
    return out


DIRECT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.?(weight|bias)$")
INSIDE = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def _renamed(key: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """One tensor of OpenAI's and open_clip's layout → those of Hugging Face's it stands for."""
    plain = key.removeprefix("text.")  # open_clip's CustomTextCLIP keeps its text tower in a module of its own
    if plain in DIRECT:
        return [(DIRECT[plain], tensor)]
    if plain in TRANSPOSED:
        return [(TRANSPOSED[plain], tensor.T.contiguous())]
    found = BLOCK.fullmatch(plain)
    if found is None:
        return [(key, tensor)]
    tower = "vision_model" if found[1] else "text_model"
    block, inside, kind = f"{tower}.encoder.layers.{found[2]}", found[3].rstrip("._"), found[4]
    if inside == "attn.in_proj":
        return [(f"{block}.self_attn.{name}_proj.{kind}", part) for name, part in zip("qkv", tensor.chunk(3))]
    return [(f"{block}.{INSIDE.get(inside, inside)}.{kind}", tensor)]


def clip_sizes(state: Mapping[str, Tensor], config: Mapping[str, Any], act: str, path: str) -> ClipSizes:
    """The sizes: from the tensors' shapes, with what these do not tell (attention heads, activation) from the config in
    Hugging Face's form (`text_config`, `vision_config`) or open_clip's (`head_width`, `heads`). Raises WeightsError for
    a file that is no CLIP model, ConfigError where the number of heads stays unknown.
    """
    config = section(config, "model_cfg") or config
    text, vision = (
        section(config, "text", "text_config", "text_cfg"),
        section(config, "vision", "vision_config", "vision_cfg"),
    )
    try:
        patch = state["vision_model.embeddings.patch_embedding.weight"]
        tokens = state["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
        words = state["text_model.embeddings.token_embedding.weight"]
        positions = state["text_model.embeddings.position_embedding.weight"].shape[0]
        projection = state["visual_projection.weight"].shape[0]
        towers = {
            name: (_depth(state, name), state[f"{name}.encoder.layers.0.mlp.fc1.weight"].shape[0])
            for name in ("text_model", "vision_model")
        }
    except (KeyError, IndexError) as error:
        kind = weights.recognise(state.keys()) or "no kind of file known here"
        raise WeightsError(f"{path} is {kind}; a CLIP model with both towers is wanted ({error} is missing)") from error
    widths = {"text_model": words.shape[1], "vision_model": patch.shape[0]}
    parts = {"text_model": text, "vision_model": vision}
    made = {
        name: Tower(
            widths[name],
            towers[name][0],
            heads_of(parts[name], widths[name], name, path),
            towers[name][1],
            str(parts[name].get("hidden_act", "quick_gelu" if config.get("quick_gelu") else act)),
        )
        for name in towers
    }
    side = patch.shape[-1]
    return ClipSizes(
        made["text_model"],
        made["vision_model"],
        words.shape[0],
        positions,
        side,
        round(math.sqrt(tokens)) * side,
        projection,
    )


def heads_of(part: Mapping[str, Any], width: int, name: str, path: str) -> int:
    """Attention heads of a tower: the config's, else those of the published tower of that width."""
    if "num_attention_heads" in part or "heads" in part:
        heads = size(part.get("num_attention_heads", part.get("heads")), f"{name}: attention heads")
    elif "head_width" in part:
        heads = width // size(part["head_width"], f"{name}: head_width")
    elif width in HEADS:
        heads = HEADS[width]
    else:
        raise ConfigError(
            f"{path} holds a {name.replace('_', ' ')} of width {width}, and a file does not tell its number of"
            ' attention heads: give a config, such as {"text": {"num_attention_heads": 4}, "vision":'
            ' {"num_attention_heads": 5}}'
        )
    if not heads or width % heads:
        raise ConfigError(f"{name}: width {width} is not a multiple of {heads} attention heads")
    return heads


def _depth(state: Mapping[str, Tensor], tower: str) -> int:
    found = re.compile(rf"{tower}\.encoder\.layers\.(\d+)\.")
    return 1 + max(int(match[1]) for match in map(found.match, state) if match)


@building()
def build_clip(state: dict[str, Tensor], config: Any, dtype: torch.dtype, device: torch.device, path: str) -> CLIPModel:
    """A CLIPModel on `device` holding `state` (Hugging Face key names)."""
    from transformers import CLIPModel

    with torch.device("meta"):
        net = CLIPModel(config)
    missing = [key for key in net.state_dict() if CONSTANT.match(key)]
    state = {key: tensor for key, tensor in state.items() if not CONSTANT.match(key)}
    state.setdefault("logit_scale", torch.tensor(LOGIT_SCALE))
    state["logit_scale"] = state["logit_scale"].reshape(())
    state = weights.checked(state, net, missing, path)
    for key in missing:
        state[key] = torch.arange(net.state_dict()[key].shape[-1]).expand(1, -1).clone()
    state = {key: tensor.to(device, dtype if tensor.is_floating_point() else None) for key, tensor in state.items()}
    net.load_state_dict(state, strict=True, assign=True)
    for part in net.modules():  # buffers that are in no checkpoint are still on the meta device
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(part, name, torch.arange(buffer.shape[-1], device=device).expand(1, -1).clone())
    for part, sizes in ((net.text_model, config.text_config), (net.vision_model, config.vision_config)):
        use_in_place(part, "activation_fn", sizes.hidden_act)
    return net.eval().requires_grad_(False)
