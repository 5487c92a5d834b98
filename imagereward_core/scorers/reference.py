"""The names by which code written for the package image-reward reaches into its model: `.blip` with `.tokenizer`,
`.visual_encoder` and `.text_encoder` called by hand, `.mlp`, `.preprocess`, `.mean` and `.std`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, PromptError
from ..tokenizer import CLS, PAD, SEP, tokenize

if TYPE_CHECKING:
    from ..model import RewardModel
    from ..model.reward import Blip, RewardHead

ENC_TOKEN = 30523  # what BLIP adds behind BERT's vocabulary: [DEC], then [ENC]
LONGEST = 512  # BERT's positions


@dataclass
class Tokens:
    """What the tokeniser gives: by attribute, by name, on any device."""

    input_ids: Tensor
    attention_mask: Tensor

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def keys(self) -> tuple[str, ...]:
        """The names, so that `**tokens` works."""
        return ("input_ids", "attention_mask")

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def to(self, device: Any) -> Tokens:
        """On that device."""
        return Tokens(self.input_ids.to(device), self.attention_mask.to(device))


class TokenizerView:
    """BERT's tokeniser with the call of transformers, as far as the reference's users call it."""

    pad_token_id, cls_token_id, sep_token_id, enc_token_id = PAD, CLS, SEP, ENC_TOKEN

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: str | bool = "max_length",
        truncation: bool = True,
        max_length: int = 35,
        return_tensors: str = "pt",
    ) -> Tokens:
        """Prompts → ids and mask [B, T]. Raises ConfigError for a form it does not give."""
        if return_tensors != "pt":
            raise ConfigError(f'return_tensors must be "pt", found {return_tensors!r}')
        if padding not in ("max_length", "longest", True, False):
            raise ConfigError(f'padding must be "max_length", "longest" or a bool, found {padding!r}')
        prompts = [text] if isinstance(text, str) else list(text)
        if not truncation:
            max_length = LONGEST
        ids, mask = tokenize(prompts, max_length, pad_to_max=padding == "max_length")
        if padding is False and not bool(mask.all()):
            raise PromptError("prompts of several lengths make no tensor without padding: pass padding=True")
        return Tokens(ids, mask)


@dataclass
class TextOutput:
    """What the text encoder gives to code that reads `last_hidden_state`."""

    last_hidden_state: Tensor

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]


class TextEncoderView(nn.Module):
    """The text encoder with the reference's call; everything else is the encoder's own."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder_itself = encoder
        self.train(encoder.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("encoder_itself"), name)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        mode: str = "multi_modal",
    ) -> Any:
        """Token ids [B, T] and image tokens [B, N, W] → hidden states [B, T, W] under `last_hidden_state`.

        mode "text" reads the prompt alone. Image tokens cannot be masked: none of the published uses does.
        """
        if encoder_attention_mask is not None and not bool(encoder_attention_mask.bool().all()):
            raise ConfigError("the image tokens' mask must be all ones: masked image tokens are not supported")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        image = None if mode == "text" else encoder_hidden_states
        found = self.encoder_itself(input_ids, attention_mask, image)
        return TextOutput(found) if return_dict else (found,)


class BlipView:
    """`.blip` as the reference names its parts; the tensors are the scorer's own."""

    tokenizer = TokenizerView()

    def __init__(self, blip: Blip):
        self.module = blip
        self.text_encoder = TextEncoderView(blip.text_encoder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)


class ReferenceNames:
    """The reference's attributes, for scorers of ImageReward's form."""

    net: RewardModel

    def __call__(self, *inputs: Any) -> Any:
        """Token ids, mask and pixels → reward [B, 1] with gradient; a prompt and images → as `score`."""
        if inputs and isinstance(inputs[0], Tensor):
            return self.reward(*inputs)  # type: ignore[attr-defined]
        return super().__call__(*inputs)  # type: ignore[misc]

    @property
    def blip(self) -> Any:
        """`.tokenizer`, `.visual_encoder`, `.text_encoder` and all that the module itself has."""
        return BlipView(self.net.blip)

    @property
    def mlp(self) -> RewardHead:
        """The head: features [B, W] → [B, 1], not yet standardised."""
        return self.net.mlp

    @property
    def mean(self) -> float:
        """What is taken off the head's output before it is divided by `std`."""
        return self.net.config.mean

    @property
    def std(self) -> float:
        """What the head's output less `mean` is divided by."""
        return self.net.config.std
