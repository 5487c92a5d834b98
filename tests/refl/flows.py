"""Tiny flow-matching models as diffusers folders: real classes, random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .tiny import WORDS, write_tokenizer

SIDE = 32  # pixels; the tiny autoencoder halves twice, so latents are 8×8 and tokens 4×4
FACTOR = 4
KL = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 16,
    "scaling_factor": 1.5,
    "shift_factor": 0.06,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
JOINT = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32}
NETWORKS = {
    "sd3": {
        **JOINT,
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 2,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 8,
        "qk_norm": "rms_norm",
        "dual_attention_layers": [0],
    },
    "flux": {
        **JOINT,
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 1,
        "num_single_layers": 1,
        "pooled_projection_dim": 16,
        "guidance_embeds": True,
        "axes_dims_rope": [4, 6, 6],
    },
}
SHARPER = {"sd3": {"shift": 3.0}}


def clip(folder: Path, part: str, project: bool) -> None:
    """CLIP of width 16 with its tokeniser, as transformers saves it."""
    import transformers

    write_tokenizer(folder / part.replace("text_encoder", "tokenizer"))
    name = part.replace("text_encoder", "tokenizer")
    words = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / name / "tokenizer_config.json").write_text(json.dumps({**words, **marks}))
    count = len(json.loads((folder / name / "vocab.json").read_text()))
    config = transformers.CLIPTextConfig(
        vocab_size=count,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
        pad_token_id=count - 1,
    )
    kind = transformers.CLIPTextModelWithProjection if project else transformers.CLIPTextModel
    kind(config).save_pretrained(folder / part)


def words_tokenizer(folder: Path, chat: bool = False) -> int:
    """A tokeniser of whole words; returns how many there are."""
    import tokenizers
    import transformers

    listed = ["<pad>", "</s>", "<unk>", *WORDS]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(listed)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    if chat:
        wrapped.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    wrapped.save_pretrained(folder)
    return len(listed)


def t5(folder: Path, part: str) -> None:
    """T5's encoder of width 32."""
    import transformers

    count = words_tokenizer(folder / part.replace("text_encoder", "tokenizer"))
    config = transformers.T5Config(
        vocab_size=count, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1
    )
    transformers.T5EncoderModel(config).save_pretrained(folder / part)


def write(root: Path, key: str, seed: int = 0) -> Path:
    """A diffusers folder of that family. Skips the test where the libraries lack what it needs."""
    from refl.errors import CheckpointError
    from refl.families import FLOWS

    family = FLOWS[key]
    diffusers = pytest.importorskip("diffusers")
    try:
        from refl.checkpoints.modules import require

        require((family.network, family.autoencoder), family.since, family.name)
    except CheckpointError as error:
        pytest.skip(str(error))
    folder = root / f"tiny-{key}"
    torch.manual_seed(seed)
    net = getattr(diffusers, family.network)(**NETWORKS[key])
    net.save_pretrained(folder / "transformer")
    getattr(diffusers, family.autoencoder)(**VAES.get(key, KL)).save_pretrained(folder / "vae")
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", **SHARPER.get(key, family.scheduler)}
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": family.pipelines[0]}))
    TEXT[key](folder)
    return folder


def _sd3(folder: Path) -> None:
    clip(folder, "text_encoder", True)
    clip(folder, "text_encoder_2", True)
    t5(folder, "text_encoder_3")


def _flux(folder: Path) -> None:
    clip(folder, "text_encoder", False)
    t5(folder, "text_encoder_2")


VAES: dict[str, dict] = {}
TEXT = {"sd3": _sd3, "flux": _flux}
