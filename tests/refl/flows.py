"""Tiny flow-matching models as diffusers folders: real classes, random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
NETWORKS: dict[str, dict] = {
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
    "z-image": {
        "in_channels": 16,
        "dim": 32,
        "n_layers": 1,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 32,
        "axes_dims": [4, 6, 6],
        "axes_lens": [1024, 32, 32],
    },
    "lumina2": {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 16,
        "hidden_size": 32,
        "num_layers": 1,
        "num_refiner_layers": 1,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "multiple_of": 32,
        "cap_feat_dim": 32,
        "axes_dim_rope": [8, 4, 4],
        "axes_lens": [300, 32, 32],
    },
    "qwen-image": {
        **JOINT,
        "patch_size": 2,
        "in_channels": 64,
        "out_channels": 16,
        "num_layers": 2,
        "axes_dims_rope": [4, 6, 6],
    },
    "flux2": {
        **JOINT,
        "joint_attention_dim": 96,
        "in_channels": 128,
        "num_layers": 1,
        "num_single_layers": 1,
        "timestep_guidance_channels": 16,
        "axes_dims_rope": [4, 4, 4, 4],
        "guidance_embeds": False,
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
NETWORKS["anima"] = {
    "in_channels": 17,
    "out_channels": 16,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "mlp_ratio": 2.0,
    "text_embed_dim": 32,
    "adaln_lora_dim": 8,
    "patch_size": [1, 2, 2],
    "rope_scale": [1.0, 4.0, 4.0],
    "concat_padding_mask": False,
    "extra_pos_embed_type": None,
}
QWEN_VAE = {
    "base_dim": 8,
    "z_dim": 16,
    "dim_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, False],
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


def words_tokenizer(folder: Path, chat: bool = False, words: Sequence[str] = WORDS) -> int:
    """A tokeniser of whole words; returns how many there are."""
    import tokenizers
    import transformers

    listed = ["<pad>", "</s>", "<unk>", *words]
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
    for name, parameter in net.named_parameters():
        if name.endswith("_pad_token"):  # diffusers leaves them as the memory was
            torch.nn.init.normal_(parameter)
    net.save_pretrained(folder / "transformer")
    vae = getattr(diffusers, family.autoencoder)(**VAES.get(key, KL))
    if hasattr(vae, "bn"):  # statistics of latents, as training leaves them
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
    vae.save_pretrained(folder / "vae")
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


def _needs(name: str):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers ({transformers.__version__}) has no {name}")
    return transformers


def _language(folder: Path, config: str, model: str, layers: int = 2, **more) -> None:
    transformers = _needs(model)
    count = words_tokenizer(folder / "tokenizer", chat=True)
    sizes = {"vocab_size": count, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "eos_token_id": 1}
    made = getattr(transformers, config)(**sizes, bos_token_id=1, **more)
    getattr(transformers, model)(made).save_pretrained(folder / "text_encoder")


def _qwen_vl(folder: Path) -> None:
    transformers = _needs("Qwen2_5_VLForConditionalGeneration")
    count = words_tokenizer(folder / "tokenizer")
    words = {"vocab_size": count, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    words |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1}
    words |= {"rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3]}}
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    eyes["fullatt_block_indexes"] = [0]
    marks = {"image_token_id": 2, "video_token_id": 2, "vision_start_token_id": 2, "vision_end_token_id": 2}
    config = transformers.Qwen2_5_VLConfig(text_config=words, vision_config=eyes, **marks)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder / "text_encoder")


def _anima(folder: Path) -> None:
    """Qwen3, and an adapter as diffusers saves it: to the words of a tokeniser that has another order of words."""
    from safetensors.torch import save_file

    from refl.llm_adapter import LlmAdapter

    _language(folder, "Qwen3Config", "Qwen3Model")
    count = words_tokenizer(folder / "t5_tokenizer", words=WORDS[::-1])
    (folder / "text_conditioner").mkdir()
    net = LlmAdapter(count, 32, 32, 2, 16, 64)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_file(net.state_dict(), str(folder / "text_conditioner" / "diffusion_pytorch_model.safetensors"))
    sizes = {"source_dim": 32, "target_dim": 32, "model_dim": 32, "num_layers": 2, "num_attention_heads": 2}
    sizes |= {"mlp_ratio": 2.0, "target_vocab_size": count, "_class_name": "AnimaTextConditioner"}
    (folder / "text_conditioner" / "config.json").write_text(json.dumps(sizes))


KLEIN_VAE = {name: value for name, value in KL.items() if not name.endswith("factor")} | {"latent_channels": 32}
VAES: dict[str, dict] = {"qwen-image": QWEN_VAE, "anima": QWEN_VAE, "flux2": KLEIN_VAE}
TEXT = {
    "sd3": _sd3,
    "flux": _flux,
    "flux2": lambda folder: _language(folder, "Qwen3Config", "Qwen3ForCausalLM", layers=28),
    "z-image": lambda folder: _language(folder, "Qwen3Config", "Qwen3Model"),
    "lumina2": lambda folder: _language(folder, "Gemma2Config", "Gemma2Model"),
    "qwen-image": _qwen_vl,
    "anima": _anima,
}
