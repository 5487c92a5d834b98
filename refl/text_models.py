"""Text encoders of flow-matching models: transformers' own classes, read from a diffusers folder, asked once and
dropped.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagereward_core.errors import WeightsError
from imagereward_core.weights.checkpoint import differences, read_state

from .checkpoints.modules import weightless
from .conditioning import Conditioning
from .errors import CheckpointError, MissingDependency

CLASSES = {  # model_type of a config.json → the class that encodes
    "clip_text_model": "CLIPTextModelWithProjection",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "gemma2": "Gemma2Model",
    "qwen3": "Qwen3Model",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
}


@dataclass(frozen=True)
class Encoded:
    """states: the chosen layers' [B, T, D], in order; mask [B, T]: which rows are tokens; pooled [B, P] of CLIP, with
    its projection where it has one.
    """

    states: tuple[Tensor, ...]
    mask: Tensor
    pooled: Tensor | None

    def shortened(self) -> Conditioning:
        """The first layer as a conditioning with a mask, as long as the longest text, without what fills the others."""
        longest = max(1, int(self.mask.sum(dim=1).max()))
        mask = self.mask[:, :longest]
        return Conditioning(self.states[0][:, :longest] * mask[..., None], mask=mask)


class TextModel:
    """One text encoder with its tokeniser."""

    def __init__(self, net: nn.Module, tokenizer: Any, projects: bool = True):
        self.net, self.tokenizer, self.projects = net.eval().requires_grad_(False), tokenizer, projects

    @property
    def width(self) -> int:
        """Numbers of a row."""
        config: Any = self.net.config
        return int(getattr(config, "text_config", config).hidden_size)

    @property
    def kind(self) -> str:
        """transformers' word for its architecture."""
        config: Any = self.net.config
        return str(config.model_type)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    def to(self, device: torch.device) -> TextModel:
        """Move the weights."""
        self.net.to(device)
        return self

    def chat(self, prompt: str, form: str, **template: Any) -> str:
        """The prompt as somebody's words to the model, in its own form of a conversation. form: the same written out,
        for a tokeniser that comes without: Forge Neo's of klein does.
        """
        if self.tokenizer.chat_template is None:
            return form.format(prompt)
        said = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, **template)

    def numbers(self, text: str, length: int) -> list[int]:
        """The text's tokens, cut to `length`, without marks of beginning and end."""
        return list(self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=length).input_ids)

    def encode(self, texts: Sequence[str], length: int, layers: Sequence[int] = (-1,)) -> Encoded:
        """Texts cut or filled to `length` tokens. layers: as `hidden_states` counts them; -1: what it returns."""
        self.tokenizer.padding_side = "right"
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        speaks = type(self.net).__name__.endswith("Generation")  # its answer is words, not states
        deep = speaks or any(layer != -1 for layer in layers)
        given = {"input_ids": ids, **({} if self.is_clip or self.is_t5 else {"attention_mask": mask})}
        found = self.net(**given, output_hidden_states=deep)
        last = getattr(found, "last_hidden_state", None)
        hidden = found.hidden_states if deep else ()
        states = tuple(last if layer == -1 and last is not None else hidden[layer] for layer in layers)
        return Encoded(states, mask.bool(), self._pooled(found, ids) if self.is_clip else None)

    @property
    def is_clip(self) -> bool:
        """Whether this is CLIP, which gives a pooled vector."""
        return self.kind.startswith("clip_text")

    @property
    def is_t5(self) -> bool:
        """Whether this is T5, which these models ask without a mask."""
        return self.kind in ("t5", "umt5")

    def _pooled(self, found: Any, ids: Tensor) -> Tensor:
        """The last layer at the first end token: by the token's number, as versions of transformers differ in that."""
        end = (ids == self.tokenizer.eos_token_id).int().argmax(dim=1)
        state = found.last_hidden_state[torch.arange(len(ids), device=ids.device), end]
        return self.net.text_projection(state) if self.projects else state  # type: ignore[operator]


WEIGHTS = ("*.safetensors", "*.bin")
WAYS: tuple[Callable[[str], str], ...] = (  # how a file's names may differ from transformers' own
    lambda name: name,
    lambda name: name.removeprefix("model."),
    lambda name: name.removeprefix("text_model."),
    lambda name: f"text_model.{name}",
)


def load_text_model(
    root: Path, part: str, dtype: torch.dtype, files: Sequence[Path] = (), usual: Mapping[str, Any] | None = None
) -> TextModel:
    """The text encoder in the folder `root`/`part`, with the tokeniser beside it. files: among which its weights are
    looked for where the folder holds its configuration alone. usual: the configuration where the folder's own does not
    even tell what it is. CheckpointError names what is missing or does not fit.
    """
    transformers = _transformers()
    folder, words = root / part, root / part.replace("text_encoder", "tokenizer")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = "model_type" in config
        config = config if named else {**(usual or {}), **config}
        kind = str(config.get("model_type"))
        projects = "CLIPTextModelWithProjection" in (config.get("architectures") or ["CLIPTextModelWithProjection"])
        name = CLASSES.get(kind, "") if projects or kind != "clip_text_model" else "CLIPTextModel"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder}/config.json cannot be read: {error}") from error
    if not name:
        raise CheckpointError(f"{folder} holds a text encoder of the type {kind!r}, which is not known here")
    found = getattr(transformers, name, None)
    if found is None:
        raise CheckpointError(
            f"{folder} needs {name}, which this transformers ({transformers.__version__}) does not have: update it"
        )
    try:
        if any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
            net, told = found.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **{_dtype_word(transformers): dtype}
            )
            missing = sorted(key for key in told["missing_keys"] if not key.endswith("lm_head.weight"))
            if missing:
                raise CheckpointError(f"{folder} lacks {', '.join(missing[:4])}: the folder is incomplete")
        else:
            with weightless():
                if named:
                    sizes = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
                else:
                    sizes = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
                net = found(sizes)
            _fill(net, files, dtype, f"{part} ({kind})")
        tokenizer = load_tokenizer(words)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise CheckpointError(f"{folder} and {words.name} beside it cannot be read: {error}") from error
    return TextModel(net, tokenizer, projects)


def load_tokenizer(folder: Path) -> Any:
    """The tokeniser in a folder, which fills with its end where it has nothing of its own for that. CheckpointError for
    one that cannot be read.
    """
    try:
        found = _transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(f"the tokeniser {folder} cannot be read: {error}") from error
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependency(f"the library transformers is needed and cannot be imported: {error}") from error
    return transformers


def _fill(net: nn.Module, files: Sequence[Path], dtype: torch.dtype, what: str) -> None:
    """Give a network without weights those of the first file that has them all. CheckpointError where none has."""
    wanted = net.state_dict()
    for path in files:
        try:
            state = read_state(path)[0]
        except WeightsError as error:
            raise CheckpointError(str(error)) from error
        for way in WAYS:
            named = {way(key): tensor for key, tensor in state.items()}
            if "shared.weight" in named:  # T5 keeps its words once
                named.setdefault("encoder.embed_tokens.weight", named["shared.weight"])
            found = differences(named, wanted)
            if not found.missing and not found.reshaped:
                fitting = {key: named[key].to(dtype) for key in wanted}
                net.load_state_dict(fitting, strict=True, assign=True)
                return
    given = ", ".join(path.name for path in files) or "none"
    raise CheckpointError(f"no file holds the weights of {what}; given are {given}")


def _dtype_word(transformers: Any) -> str:
    """What `from_pretrained` calls the precision: version 5 renamed it."""
    text = inspect.getsource(transformers.PreTrainedModel.from_pretrained)
    return "dtype" if 'pop("dtype"' in text else "torch_dtype"
