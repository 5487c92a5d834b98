"""MPS (Zhang et al. 2024): the image's tokens attend to those words of the prompt that a condition opens, then the
cosine of the first of them with the prompt, times exp(logit_scale).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import weights
from ..clip_bpe import END, tokenize
from ..errors import ConfigError, WeightsError
from ..model.cross import CrossModel
from ..registry import ModelInfo
from .base import building
from .clip import ClipScorer, image_size, tower_net
from .loading import Request, requested, section, size, without_prefix
from .twotower import HubInputs, projected

if TYPE_CHECKING:
    from transformers import CLIPModel

ACT = "gelu"
CONDITION = (  # what the published overall score asks for
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance,"
    " texture, quantity, attributes, position, number, location, word, things."
)
CROSS = "cross_model."
CONSTANT = re.compile(r"(rotary_emb\.inv_freq|pos_emb)$")  # computed here
RENAMED = (
    (re.compile(r"^layers\.(\d+)\.0\.fn\."), r"layers.\1.cross."),
    (re.compile(r"^layers\.(\d+)\.1\.fn\."), r"layers.\1.own."),
    (re.compile(r"\.ff\.0\."), ".ff_in."),
    (re.compile(r"\.(ff\.2|ff_out\.1)\."), ".ff_out."),
    (re.compile(r"\.(to_out|attn_out)\."), ".out."),
)


class MpsNet(nn.Module):
    """The two towers and the blocks behind them."""

    clip: CLIPModel
    cross: CrossModel

    def __init__(self, clip: CLIPModel, cross: CrossModel):
        super().__init__()
        self.clip = clip
        self.cross = cross


class MpsScorer(HubInputs, ClipScorer):
    """About 4 (poor) to 16 (good) on the published weights.

    `settings["threshold"]`: a word is open if its similarity to the condition is more than this share of the prompt's
    most similar word: 0.01 as published, 0.3 in the authors' evaluation on ImageReward's test set.
    """

    net: MpsNet  # type: ignore[assignment]
    prompts_kept = 256  # 77 tokens each

    def __init__(self, net: MpsNet, info: ModelInfo, device: torch.device, condition: str = CONDITION, **sizes: int):
        super().__init__(net, info, device, **sizes)
        self.condition = condition

    def heads(self) -> list[nn.Module]:
        return [self.net.cross]

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return tokenize(prompts, as_hub=True, pad=END, pad_to_max=True)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """All projected tokens [B, N, D], without the last norm, as published."""
        tokens = self.net.clip.vision_model(pixel_values=pixels).last_hidden_state
        return projected(tokens, self.net.clip.visual_projection)

    def encode_words(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(all projected tokens [B, 77, D], that of the end [B, D])."""
        found = self.net.clip.text_model(input_ids=self.tokenize(prompts).to(self.device))
        last, end = found.last_hidden_state, found.pooler_output
        return projected(last, self.net.clip.text_projection), projected(end, self.net.clip.text_projection)

    def encode_open_words(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """`encode_words` and which words are open [B, 77], each row by its own prompt's greatest likeness."""
        words, end = self.encode_words(prompts)
        condition, _ = self.encode_words([self.condition])
        likeness = torch.einsum("bid,jd->bij", words, condition[0]).amax(dim=-1)
        return words, end, likeness / likeness.amax(dim=-1, keepdim=True) > self.settings["threshold"]

    def combine(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        words, end, opened = self.memo(prompts, self.encode_open_words)
        with torch.autocast(images.device.type, enabled=False):
            seen = self.net.cross(images.to(self.net.cross.dtype), words.to(self.net.cross.dtype), opened)[:, 0]
            cosine = F.cosine_similarity(seen, end.to(seen.dtype), dim=-1)
            return self.net.clip.logit_scale.to(seen.dtype).exp() * cosine


def cross_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The blocks' tensors under the names of `CrossModel`; the norms' shifts, constants of zero, may be missing."""
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith(CROSS) and not CONSTANT.search(key):
            name = key[len(CROSS) :]
            for pattern, replacement in RENAMED:
                name = pattern.sub(replacement, name)
            found[name] = tensor
    return found


@building()
def build_cross(
    state: dict[str, Tensor], config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, path: str
) -> CrossModel:
    """The blocks with their weights, of the file's own sizes."""
    try:
        queries, keys = state["layers.0.cross.to_q.weight"], state["layers.0.cross.to_kv.weight"]
    except KeyError as error:
        raise WeightsError(
            f"{path} has no cross-attention ({CROSS}… is missing): it is not a file of MPS, or only its CLIP part"
        ) from error
    head_width, width = keys.shape[0] // 2, queries.shape[1]
    depth = 1 + max(int(key.split(".")[1]) for key in state)
    given = section(config, "cross")
    wanted = {"dim": width, "layers": depth, "dim_head": head_width, "heads": queries.shape[0] // head_width}
    for name, value in wanted.items():
        if size(given.get(name, value), f"cross: {name}") != value:
            raise ConfigError(f"the config says cross.{name} {given[name]}; {path} has {value}")
    with torch.device("meta"):
        net = CrossModel(width, depth, wanted["heads"], head_width)
    shifts = [key for key in net.state_dict() if key.endswith("norm.bias")]
    state = weights.checked(state, net, shifts, path)
    for key in shifts:
        state.setdefault(key, torch.zeros(width))
    net.load_state_dict({key: tensor.to(device, dtype) for key, tensor in state.items()}, assign=True)
    return net.eval().requires_grad_(False)


def build(state: dict[str, Tensor], config: Mapping[str, Any], request: Request, path: str) -> MpsNet:
    """Towers and blocks from one file's tensors."""
    state = without_prefix(state, (CROSS + "layers.0.0.fn.norm.weight",))
    towers = {key: tensor for key, tensor in state.items() if not key.startswith(CROSS)}
    # a cosine times 100 shows fp32's rounding
    precise = request.device.type == "cpu" and request.dtype is torch.float32
    dtype = torch.float64 if precise else torch.float32
    cross = build_cross(cross_state(state), config, request.device, dtype, path)
    clip: Any = tower_net(towers, config, ACT, request, path)
    return MpsNet(clip, cross)


@building()
def load_mps(name: str = "MPS", **options: Any) -> MpsScorer:
    """See `imagereward_core.load_score`. `config`: sizes as of PickScore, `cross`, `threshold`, `condition`."""
    request = requested(name, **options)
    state, config, path = request.read()
    net = build(state, config, request, path)
    weights.keep_converted(path, state, {})
    condition = config.get("condition", CONDITION)
    if not isinstance(condition, str) or not condition:
        raise ConfigError(f"MPS: condition must be words, found {condition!r}")
    scorer = MpsScorer(net, request.info, request.device, condition, size=image_size(net.clip))
    scorer.settings = request.settings(config)
    return scorer
