"""What a weights file is, told by the names and shapes of its tensors: ONE table for scorers, training and the tab.

Names as the files on the Hugging Face hub and on Civitai hold them; a model in a WebUI's single file has the prefix
`model.diffusion_model.`, alone or in diffusers' layout it has none, so the patterns start at a dot or a line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

UNET = "model.diffusion_model."
FIRST = ("input_blocks.0.0.weight", "conv_in.weight")  # the UNet's first convolution, original and diffusers' name


@dataclass(frozen=True)
class Kind:
    """`key` for programs, `name` for people ("a LoRA")."""

    key: str
    name: str


def _kind(key: str, name: str, pattern: str) -> tuple[re.Pattern[str], Kind]:
    return re.compile(pattern.replace("^", r"(?:^|(?<=\.))"), re.MULTILINE), Kind(key, name)


# The telling ones first. `^` stands for the start of a name or of a part of it (after a dot).
TABLE = (
    _kind("lora", "a LoRA", r"^lora_(unet|te\d?|transformer|prior)_|\.lora_(A|B|down|up)\.|\.lora\.(down|up)\."),
    _kind("lora", "a LoRA", r"\.(hada_w1_[ab]|lokr_w[12](_[ab])?)$"),
    _kind("controlnet", "a ControlNet", r"^control_model\.|^controlnet_"),
    _kind("motion", "a motion module of AnimateDiff", r"\.motion_modules\."),
    _kind("svd", "a Stable Video Diffusion checkpoint", r"\.time_stack\."),
    # diffusion transformers
    _kind("flux2", "a FLUX.2 model", r"^double_stream_modulation_(img|txt)\."),
    _kind("hunyuan-video", "a HunyuanVideo model", r"^individual_token_refiner\."),
    _kind("chroma", "a Chroma model", r"^distilled_guidance_layer\."),
    _kind("qwen-image", "a Qwen-Image model", r"^transformer_blocks\.\d+\.img_mod\."),
    _kind("hidream", "a HiDream model", r"^double_stream_blocks\."),
    _kind("flux", "a FLUX model", r"^double_blocks\.|^single_transformer_blocks\."),
    _kind("auraflow", "an AuraFlow model", r"^cond_seq_linear\.|^joint_transformer_blocks\."),
    _kind("sd3", "a Stable Diffusion 3 model", r"^joint_blocks\.|^transformer_blocks\.\d+\.attn\.add_q_proj\."),
    _kind("anima", "an Anima model", r"^llm_adapter\."),
    _kind("cosmos", "a Cosmos-Predict2 model", r"^blocks\.\d+\.adaln_modulation_(self_attn|cross_attn|mlp)\."),
    _kind("wan", "a Wan video model", r"^head\.modulation$"),
    _kind("wan", "a Wan video model", r"^condition_embedder\.time_embedder\."),
    _kind("z-image", "a Z-Image model", r"^(x|cap)_pad_token$|^all_x_embedder\."),
    _kind("lumina2", "a Lumina 2 model", r"^cap_embedder\.|^noise_refiner\.|^time_caption_embed\."),
    _kind("hunyuan-dit", "a HunyuanDiT model", r"^mlp_t5\.|^text_embedding_padding$"),
    _kind("ltx", "an LTX-Video model", r"^patchify_proj\."),
    _kind("sana", "a Sana model", r"^caption_norm\.|^attention_y_norm\."),
    _kind("pixart", "a PixArt model", r"^t_block\.1\.weight$|^adaln_single\."),
    _kind("cascade", "a Stable Cascade model", r"^clip_txt(_pooled)?_mapper\."),
    _kind("transformer", "a diffusion transformer", r"^t_embedder\.mlp\.|^adaLN_modulation\.|^final_layer\.linear\."),
    # UNets
    _kind("playground", "a Playground v2.5 model (EDM noise schedule)", r"^edm_(mean|std)$"),
    _kind("kolors", "a Kolors model (its text encoder is ChatGLM)", r"^encoder_hid_proj\."),
    _kind("unclip", "a Stable unCLIP checkpoint", r"^embedder\.model\.visual\."),
    _kind("sdxl-refiner", "the SDXL refiner", r"^conditioner\.embedders\.0\.model\."),
    _kind("sdxl", "a Stable Diffusion XL checkpoint", r"^conditioner\.embedders\."),
    _kind("sd2", "a Stable Diffusion 2.x checkpoint", r"^cond_stage_model\.model\."),
    _kind("sd1", "a Stable Diffusion 1.x checkpoint", r"^cond_stage_model\."),
    _kind("unet-file", "a Stable Diffusion checkpoint", r"^model\.diffusion_model\."),
    _kind("unet", "a Stable Diffusion UNet on its own", r"^input_blocks\.\d+\.\d+\."),
    # parts
    _kind("t5", "a T5 text encoder", r"^encoder\.block\.\d+\.layer\."),
    _kind(
        "vae", "a VAE", r"^(encoder|decoder)\.(down|up)(_blocks)?\.|^(en|de)coder\.(down|up)samples\.\d+\.residual\."
    ),
    _kind("diffusers-unet", "a diffusers UNet", r"^(down|up)_blocks\.\d+\.(resnets|attentions)\."),
    _kind("embedding", "a textual inversion embedding", r"^string_to_param|emb_params$"),
    _kind("clip", "a CLIP model of transformers", r"^(text_model|vision_model)\.(encoder|embeddings)\."),
    _kind(
        "open-clip", "a CLIP model of OpenAI or open_clip", r"^visual\.(conv1|transformer)\.|^token_embedding\.weight$"
    ),
    _kind("imagereward", "an ImageReward checkpoint", r"^blip\.(visual|text)_encoder\."),
    _kind("blip", "a BLIP checkpoint", r"^(visual|text)_encoder\."),
    _kind("head", "an aesthetic or reward head alone", r"^layers\.\d+\.(weight|bias)$"),
    _kind("language-model", "a language model", r"^model\.layers\.\d+\.self_attn\."),
)
CHANNELS = {
    9: ("inpainting", "an inpainting model"),
    8: ("edit", "an image-editing model"),
    5: ("depth", "a depth model"),
}
# Models distilled to few steps, by what their makers call them; klein's own has "base" in its name where it is not.
KLEIN = r"flux[-_. ]?2[-_ ]klein[-_ ][49]b(?!.*base)"
FEW_STEP = re.compile(rf"(?<![a-z])(turbo|lightning|lcm|hyper-?sd(xl)?|schnell|dmd2?|{KLEIN})(?![a-z])", re.IGNORECASE)
# Diffusers pipelines by the class in their model_index.json, for folders that hold no UNet of Stable Diffusion.
PIPELINES = (
    ("StableDiffusion3", "sd3", "a Stable Diffusion 3 model"),
    ("Flux2", "flux2", "a FLUX.2 model"),
    ("Flux", "flux", "a FLUX model"),
    ("Chroma", "chroma", "a Chroma model"),
    ("QwenImage", "qwen-image", "a Qwen-Image model"),
    ("Kolors", "kolors", "a Kolors model (its text encoder is ChatGLM)"),
    ("PixArt", "pixart", "a PixArt model"),
    ("HunyuanDiT", "hunyuan-dit", "a HunyuanDiT model"),
    ("HunyuanVideo", "hunyuan-video", "a HunyuanVideo model"),
    ("StableCascade", "cascade", "a Stable Cascade model"),
    ("Wuerstchen", "cascade", "a Wuerstchen model"),
    ("Lumina", "lumina2", "a Lumina model"),
    ("ZImage", "z-image", "a Z-Image model"),
    ("Wan", "wan", "a Wan video model"),
    ("Anima", "anima", "an Anima model"),
    ("Cosmos", "cosmos", "a Cosmos model"),
    ("Sana", "sana", "a Sana model"),
    ("AuraFlow", "auraflow", "an AuraFlow model"),
    ("LTX", "ltx", "an LTX-Video model"),
    ("HiDream", "hidream", "a HiDream model"),
    ("StableVideoDiffusion", "svd", "a Stable Video Diffusion model"),
    ("LatentConsistency", "lcm", "a latent consistency model"),
)


def few_step(*names: str) -> str:
    """The word in a model's file name or title that says it was distilled to few steps; "" if none does."""
    found = next(filter(None, map(FEW_STEP.search, names)), None)
    return found[0] if found else ""


def find(keys: Collection[str]) -> Kind | None:
    """The kind of a file with these tensor names, or None."""
    text = "\n".join(keys)
    return next((kind for pattern, kind in TABLE if pattern.search(text)), None)


def recognise(keys: Collection[str]) -> str:
    """What a file with these tensor names is ("a LoRA"), or "" when it is nothing we know."""
    kind = find(keys)
    return kind.name if kind else ""


def identify(shapes: Mapping[str, Sequence[int]]) -> Kind | None:
    """The kind of a file by names and shapes: `find`, and which variant of Stable Diffusion it is.

    Variants are told by the UNet's input channels (inpainting, editing, depth) and by missing blocks (SSD-1B and other
    distilled SDXL, which have no attention in the middle).
    """
    kind = find(shapes)
    if kind is None or kind.key not in ("sd1", "sd2", "sdxl", "unet-file", "unet", "diffusers-unet"):
        return kind
    base = "" if kind.key in ("unet", "diffusers-unet") else UNET
    first = next((shapes[base + name] for name in FIRST if base + name in shapes), None)
    if first is not None and len(first) == 4 and first[1] != 4:
        key, name = CHANNELS.get(first[1], ("channels", "a model of an unknown kind"))
        return Kind(key, f"{name} ({first[1]} input channels)")
    label = shapes.get(f"{base}label_emb.0.0.weight", shapes.get(f"{base}add_embedding.linear_1.weight"))
    if label is not None and len(label) == 2 and label[1] == 5632:
        return Kind("kolors", "a Kolors model (its text encoder is ChatGLM)")
    if kind.key == "sdxl" and first is not None and not any(key.startswith(f"{base}middle_block.1.") for key in shapes):
        return Kind("ssd-1b", "a distilled SDXL with fewer blocks (SSD-1B, Segmind Vega, KOALA)")
    return kind


def of_pipeline(class_name: str) -> Kind | None:
    """The kind of a diffusers folder by the class its model_index.json names; None for Stable Diffusion's own."""
    return next((Kind(key, name) for start, key, name in PIPELINES if class_name.startswith(start)), None)
