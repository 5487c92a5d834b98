"""Images as the programs of the field write them, built here byte by byte: which prompt each holds is known."""

import json
import struct
import zlib

from PIL import Image, PngImagePlugin

PROMPT = "a blue square on a red wall"
SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64, Version: v1.10.1"
INFOTEXT = f"{PROMPT}\nNegative prompt: blurry\n{SETTINGS}"
GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 20, "positive": ["7", 0], "negative": ["6", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry, lowres", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": PROMPT, "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
}
FOOOCUS = {
    "prompt": PROMPT,
    "negative_prompt": "blurry",
    "full_prompt": [f"{PROMPT}, cinematic"],
    "version": "Fooocus v2.5",
}
RUINED = {"Prompt": PROMPT, "Negative": "blurry", "steps": 30, "software": "RuinedFooocus"}
SWARM = {"sui_image_params": {"prompt": PROMPT, "negativeprompt": "blurry", "steps": 20}, "sui_extra_data": {}}
NOVEL = {"steps": 28, "sampler": "k_euler", "seed": 1, "strength": 0.7, "noise": 0.2, "scale": 11.0, "uc": "lowres"}
NOVEL_ONE = {
    "Title": "NovelAI generated image",
    "Description": PROMPT,
    "Software": "NovelAI",
    "Comment": json.dumps({**NOVEL, "prompt": PROMPT}),
}
INVOKE = {
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": PROMPT,
    "negative_prompt": "blurry",
    "scheduler": "euler",
    "app_version": "5.4.3",
}
INVOKE_OLD = {
    "model": "stable diffusion",
    "image": {"prompt": [{"prompt": f"{PROMPT} [blurry]", "weight": 1.0}], "seed": 1},
}
EASY = {"prompt": PROMPT, "negative_prompt": "blurry", "seed": 1, "use_stable_diffusion_model": "sd-v1-4"}
CIVITAI = {
    "resource-stack": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "urn:air:1"}},
    "6": {"class_type": "smZ CLIPTextEncode", "inputs": {"text": PROMPT, "clip": ["resource-stack", 1]}},
    "7": {"class_type": "smZ CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["resource-stack", 1]}},
    "11": {"class_type": "KSampler", "inputs": {"steps": 20, "positive": ["6", 0], "negative": ["7", 0]}},
    "13": {"class_type": "SaveImage", "inputs": {"images": ["11", 0]}},
    "extraMetadata": json.dumps({"prompt": PROMPT, "negativePrompt": "blurry", "steps": 20}),
}
EXTRAS = "Postprocess upscale by: 2, Postprocess upscaler: R-ESRGAN 4x+"

# name -> (the program's name, PNG texts): the first text is what the program puts into the UserComment elsewhere.
PNG = {
    "automatic1111": ("AUTOMATIC1111", {"parameters": INFOTEXT}),
    "forge": ("Forge", {"parameters": INFOTEXT.replace("v1.10.1", "f2.0.1v1.10.1")}),
    "fooocus": ("Fooocus", {"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"}),
    "fooocus a1111": (
        "Fooocus",
        {"parameters": INFOTEXT.replace("v1.10.1", "Fooocus v2.5.5"), "fooocus_scheme": "a1111"},
    ),
    "ruinedfooocus": ("RuinedFooocus", {"parameters": json.dumps(RUINED)}),
    "swarmui": ("SwarmUI", {"parameters": json.dumps(SWARM, indent=2)}),
    "novelai": (
        "NovelAI",
        {
            "Title": "x",
            "Description": PROMPT,
            "Software": "NovelAI",
            "Source": "SD 1D44365E",
            "Comment": json.dumps(NOVEL),
        },
    ),
    "invokeai": ("InvokeAI", {"invokeai_metadata": json.dumps(INVOKE)}),
    "invokeai sd-metadata": ("InvokeAI", {"sd-metadata": json.dumps(INVOKE_OLD)}),
    "invokeai dream": ("InvokeAI", {"Dream": f'"{PROMPT} [blurry, lowres]" -s 50 -S 1 -W 512 -H 512 -C 7.5'}),
    "easydiffusion": ("Easy Diffusion", {name: str(value) for name, value in EASY.items()}),
    "comfyui": ("ComfyUI", {"prompt": json.dumps(GRAPH), "workflow": '{"nodes": [], "links": [], "version": 0.4}'}),
}
# name -> (program, UserComment) in JPEG, WebP and AVIF
COMMENTS = {
    "automatic1111": ("AUTOMATIC1111", INFOTEXT),
    "fooocus": ("Fooocus", json.dumps(FOOOCUS)),
    "ruinedfooocus": ("RuinedFooocus", json.dumps(RUINED)),
    "swarmui": ("SwarmUI", json.dumps(SWARM)),
    "novelai": ("NovelAI", json.dumps(NOVEL_ONE)),
    "easydiffusion": ("Easy Diffusion", json.dumps(EASY)),
    "comfyui": ("ComfyUI", json.dumps({"prompt": GRAPH, "workflow": {"nodes": []}})),
    "civitai": ("Civitai", json.dumps(CIVITAI)),
    "civitai graph": ("Civitai", json.dumps({**CIVITAI, "extraMetadata": ""})),
}


def picture(size=(24, 16)):
    return Image.linear_gradient("L").resize(size).convert("RGB")


def png(path, texts=(), exif_block=None, international=False):
    """A PNG with these texts, as tEXt where Latin-1 holds them, and an eXIf chunk."""
    info = PngImagePlugin.PngInfo()
    for name, text in dict(texts).items():
        (info.add_itxt if international else info.add_text)(name, text)
    picture().save(path, pnginfo=info)
    if exif_block is not None:
        insert(path, chunk(b"eXIf", exif_block))
    return path


def insert(path, *chunks):
    """Put raw chunks behind the PNG's header."""
    data = path.read_bytes()
    path.write_bytes(data[:33] + b"".join(chunks) + data[33:])
    return path


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff(fields, inside=None, order="<"):
    """An EXIF block: {tag: bytes} of its first directory, and of the Exif directory if given."""
    first = dict(fields)
    if inside is not None:
        first[0x8769] = None
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    exif_at = 8 + 2 + 12 * len(first) + 4
    room = exif_at + (2 + 12 * len(inside) + 4 if inside is not None else 0)
    content = b""

    def directory(entries):
        nonlocal content
        rows = struct.pack(order + "H", len(entries))
        for tag, value in sorted(entries.items()):
            if value is None:
                rows += struct.pack(order + "HHII", tag, 4, 1, exif_at)
                continue
            kind = 7 if tag == 0x9286 else 2
            if len(value) <= 4:
                rows += struct.pack(order + "HHI", tag, kind, len(value)) + value.ljust(4, b"\0")
            else:
                rows += struct.pack(order + "HHII", tag, kind, len(value), room + len(content))
                content += value
        return rows + struct.pack(order + "I", 0)

    tables = directory(first) + (directory(inside) if inside is not None else b"")
    return head + tables + content


def comment(text, encoding="utf-16-be", code=b"UNICODE\0", order="<"):
    """An EXIF block with a UserComment."""
    return tiff({}, {0x9286: code + text.encode(encoding)}, order)


def with_exif(path, block):
    """An image of the suffix's format with this EXIF block."""
    picture().save(path, exif=b"Exif\0\0" + block)
    return path
