"""The image model behind one interface: prompts → conditioning → UNet output → image. Loads diffusers folders and
single files, offline, for SD 1.x, SD 2.x and SDXL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from . import clip_text, clip_tokenizer, ldm
from .conditioning import Conditioning
from .errors import CheckpointError, MissingDependency
from .family import Family, family
from .schedule import NoiseSchedule
from .single_file import SingleFile, has_vae, open_checkpoint, read_state


class PromptEncoder(Protocol):
    """Prompts → conditioning, on the encoder's device."""

    def encode(self, prompts: Sequence[str], resolution: int) -> Conditioning: ...

    def to(self, device: torch.device) -> Any: ...


@dataclass
class Backend:
    """A loaded image model. `text` is dropped (None) once all prompts are encoded."""

    unet: nn.Module
    vae: nn.Module
    schedule: NoiseSchedule
    family: Family
    latent_scale: float
    source: Path
    text: PromptEncoder | None = None
    tiny_vae: nn.Module | None = None
    autocast: torch.dtype | None = None  # set when the UNet's weights are fp32 and its arithmetic is not

    @property
    def latent_factor(self) -> int:
        """Pixels per latent cell and side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)  # type: ignore[union-attr,arg-type]

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.unet.config.in_channels)  # type: ignore[union-attr,arg-type]

    def predict(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The UNet's output [B, 4, h, w] at noisy latents x and timesteps t [B], in fp32."""
        extra = None if cond.pooled is None else {"text_embeds": cond.pooled, "time_ids": cond.time_ids}
        dtype = cond.context.dtype
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            output = self.unet(
                x.to(dtype),
                t.to(x.device),
                encoder_hidden_states=cond.context,
                added_cond_kwargs=extra,
                return_dict=False,
            )[0]
        return output.float()

    def decode(self, latents: Tensor, tiny: bool = False) -> Tensor:
        """Latents [B, 4, h, w] → images [B, 3, H, W], not clamped, 0 and 1 being black and white."""
        if tiny and self.tiny_vae is not None:  # a tiny autoencoder takes latents in the UNet's own scale
            dtype = next(self.tiny_vae.parameters()).dtype
            return self.tiny_vae.decode(latents.to(dtype), return_dict=False)[0].float() / 2 + 0.5  # type: ignore[operator]
        dtype = next(self.vae.parameters()).dtype
        return self.vae.decode((latents / self.latent_scale).to(dtype), return_dict=False)[0].float() / 2 + 0.5  # type: ignore[operator]

    def encode_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] → latents, the distribution's mean."""
        dtype = next(self.vae.parameters()).dtype
        return self.vae.encode((images * 2 - 1).to(dtype)).latent_dist.mean.float() * self.latent_scale  # type: ignore[operator]

    def to(self, device: torch.device) -> Backend:
        """Move everything that is still loaded."""
        for part in (self.unet, self.vae, self.tiny_vae, self.text):
            if part is not None:
                part.to(device)
        return self


def load_backend(
    path: str | os.PathLike[str],
    *,
    vae: str = "",
    taesd: str = "",
    clip_bpe: str = "",
    clip_skip: int | None = None,
    prediction_type: str = "auto",
    dtype: torch.dtype = torch.float32,
    unet_dtype: torch.dtype | None = None,
) -> Backend:
    """Load a checkpoint for training: weights frozen, on the CPU, in `dtype` (the UNet in `unet_dtype`).

    The VAE is never fp16: SDXL's overflows there. Raises CheckpointError for whatever cannot be trained.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no such checkpoint: {path}")
    unet_dtype = unet_dtype or dtype
    vae_dtype = torch.bfloat16 if dtype is torch.bfloat16 else torch.float32
    if path.is_dir():
        backend = _load_folder(path, clip_skip, dtype, unet_dtype, vae_dtype)
    else:
        backend = _load_single(open_checkpoint(path), vae, clip_bpe, clip_skip, dtype, unet_dtype, vae_dtype)
    if taesd:
        backend.tiny_vae = _load_taesd(taesd, vae_dtype)
    if prediction_type != "auto":
        backend.schedule.prediction_type = prediction_type
    elif backend.family.key == "sd2" and not path.is_dir() and backend.schedule.prediction_type == "epsilon":
        backend.schedule.prediction_type = probe_prediction(backend)
    for part in (backend.unet, backend.vae, backend.tiny_vae):
        if part is not None:
            part.eval().requires_grad_(False)
    return backend


def probe_prediction(backend: Backend) -> str:
    """Find out what the UNet predicts: SD 2.0-base and 2.1 have the same keys.

    At the noisiest timestep the input is nothing but noise. A UNet that predicts the noise returns its input; one that
    predicts v = a e - s x_0 returns minus a picture, which has little to do with it.
    """
    generator = torch.Generator().manual_seed(0)
    parameter = next(backend.unet.parameters())
    x = torch.randn(1, backend.latent_channels, 16, 16, generator=generator).to(parameter.device)
    width = int(backend.unet.config.cross_attention_dim)  # type: ignore[union-attr,arg-type]
    context = torch.zeros(1, 77, width, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad():
        output = backend.predict(x, torch.tensor([len(backend.schedule) - 1]), Conditioning(context))
    similarity = torch.nn.functional.cosine_similarity(output.flatten(), x.flatten(), dim=0)
    return "epsilon" if similarity > 0.5 else "v_prediction"


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingDependency(
            f"the library diffusers (0.29.2 or newer) is needed and cannot be imported: {error}"
        ) from error
    return diffusers


def build_module(
    kind: str, config: dict[str, Any], state: dict[str, Tensor] | None, dtype: torch.dtype, what: str
) -> nn.Module:
    """A diffusers UNet2DConditionModel or AutoencoderKL of that configuration, holding `state` (None: meta tensors
    only).
    """
    with torch.device("meta"):
        net = getattr(_diffusers(), kind).from_config(config)
    if state is not None:
        try:
            net.load_state_dict({key: tensor.to(dtype) for key, tensor in state.items()}, strict=True, assign=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{what} does not have the form of a Stable Diffusion {kind}: {str(error)[:400]}"
            ) from error
    return net


def unet_from_file(file: SingleFile, dtype: torch.dtype) -> nn.Module:
    """The checkpoint's UNet."""
    state = file.part(ldm.UNET_PREFIX)
    heads = file.overrides.get("unet_heads")
    head_width = file.overrides.get("unet_head_width", None if heads else file.family.unet_head_width)
    config = ldm.unet_config(state, heads or file.family.unet_heads, head_width)
    if file.family.is_sdxl:
        pooled = file.state["conditioner.embedders.1.model.text_projection"].shape[1]
        config["addition_time_embed_dim"] = (config["projection_class_embeddings_input_dim"] - pooled) // 6
    names = ldm.unet_names(state, ldm.UNetLayout.of(config))
    return build_module(
        "UNet2DConditionModel", config, {names[key]: tensor for key, tensor in state.items()}, dtype, str(file.path)
    )


def vae_from_state(state: dict[str, Tensor], dtype: torch.dtype, what: str) -> nn.Module:
    """An autoencoder from LDM weights without prefix."""
    state = {
        key: tensor
        for key, tensor in state.items()
        if key.split(".")[0] in ("encoder", "decoder", "quant_conv", "post_quant_conv")
    }
    if "decoder.conv_in.weight" not in state or "encoder.conv_in.weight" not in state:
        raise CheckpointError(f"{what} is not a Stable Diffusion VAE")
    names = ldm.vae_names(state)
    # attention in the VAE is stored as 1×1 convolutions, diffusers keeps matrices
    renamed = {
        names[key]: tensor.flatten(1) if "attentions" in names[key] and tensor.dim() == 4 else tensor
        for key, tensor in state.items()
    }
    return build_module("AutoencoderKL", ldm.vae_config(state), renamed, dtype, what)


def _load_single(
    file: SingleFile,
    vae: str,
    clip_bpe: str,
    clip_skip: int | None,
    dtype: torch.dtype,
    unet_dtype: torch.dtype,
    vae_dtype: torch.dtype,
) -> Backend:
    if vae:
        vae_state, _ = read_state(vae)
        vae_net = vae_from_state(
            {key.removeprefix(ldm.VAE_PREFIX): tensor for key, tensor in vae_state.items()}, vae_dtype, vae
        )
    elif has_vae(file):
        vae_net = vae_from_state(file.part(ldm.VAE_PREFIX), vae_dtype, str(file.path))
    else:
        raise CheckpointError(f"{file.path} holds no VAE: give one with --vae (the VAE file selected in the WebUI)")
    scheduler = {**file.family.scheduler, **file.overrides.get("scheduler", {})}
    if "v_pred" in file.state:
        scheduler["prediction_type"] = "v_prediction"
    if "ztsnr" in file.state:
        scheduler["rescale_betas_zero_snr"] = True
    schedule = NoiseSchedule(scheduler)
    scale = float(file.overrides.get("latent_scale", file.family.latent_scale))
    return Backend(
        unet_from_file(file, unet_dtype),
        vae_net,
        schedule,
        file.family,
        scale,
        file.path,
        _encoders(file, clip_bpe, clip_skip, dtype),
    )


def _encoders(file: SingleFile, clip_bpe: str, clip_skip: int | None, dtype: torch.dtype) -> PromptEncoder:
    own = file.overrides.get("tokenizer")
    tokenizer = (
        clip_tokenizer.from_folder(own) if own else clip_tokenizer.from_bpe_file(clip_tokenizer.find_bpe_file(clip_bpe))
    )
    parts = []
    for part in file.family.text:
        state = clip_text.canonical(file.part(part.prefix))
        config = clip_text.infer_config(state, part.activation, file.overrides.get("text_heads"), part.projection)
        padded = tokenizer if part.pad == clip_tokenizer.END else tokenizer.padded_with(part.pad)
        parts.append((clip_text.build(state, config, dtype), padded))
    return prompt_encoder(parts, file.family, clip_skip)


def prompt_encoder(
    parts: list[tuple[clip_text.ClipText, clip_tokenizer.ClipTokenizer]], kind: Family, clip_skip: int | None
) -> PromptEncoder:
    """The family's way from prompts to conditioning."""
    if kind.is_sdxl:
        from .sdxl import SDXLPrompts

        return SDXLPrompts(parts, clip_skip or kind.clip_skip)
    from .sd15 import SDPrompts

    return SDPrompts(*parts[0], clip_skip or kind.clip_skip)


def _load_folder(
    path: Path, clip_skip: int | None, dtype: torch.dtype, unet_dtype: torch.dtype, vae_dtype: torch.dtype
) -> Backend:
    if not (path / "unet" / "config.json").is_file():
        raise CheckpointError(f"{path} is no diffusers model: it has no unet/config.json")
    diffusers = _diffusers()
    try:
        unet = diffusers.UNet2DConditionModel.from_pretrained(
            path, subfolder="unet", torch_dtype=unet_dtype, local_files_only=True, low_cpu_mem_usage=False
        )
        vae = diffusers.AutoencoderKL.from_pretrained(
            path, subfolder="vae", torch_dtype=vae_dtype, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be loaded as a diffusers model: {error}") from error
    if unet.config.in_channels != 4:
        raise CheckpointError(
            f"{path} has {unet.config.in_channels} input channels (inpainting or editing): choose a text-to-image model"
        )
    if unet.config.get("time_cond_proj_dim"):
        raise CheckpointError(f"{path} is a latent consistency model (few steps): choose the model it was made from")
    two = (path / "text_encoder_2").is_dir()
    if two and not (path / "text_encoder").is_dir():
        raise CheckpointError(f"{path} is the SDXL refiner: choose the SDXL base model")
    parts = [_folder_encoder(path, suffix, dtype) for suffix in (("", "_2") if two else ("",))]
    kind = family("sdxl" if two else "sd2" if parts[0][0].config.activation == "gelu" else "sd1")
    scheduler = (
        json.loads((path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        if (path / "scheduler").is_dir()
        else kind.scheduler
    )
    if kind.key == "sd2" and clip_skip is None:
        clip_skip = 1  # a diffusers folder of SD 2 has dropped the last text layer already
    scale = float(vae.config.scaling_factor)
    return Backend(unet, vae, NoiseSchedule(scheduler), kind, scale, path, prompt_encoder(parts, kind, clip_skip))


def _folder_encoder(
    path: Path, suffix: str, dtype: torch.dtype
) -> tuple[clip_text.ClipText, clip_tokenizer.ClipTokenizer]:
    folder = path / f"text_encoder{suffix}"
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json cannot be read: {error}") from error
    weights = next(
        (folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()),
        folder / "model.safetensors",
    )
    state, _ = read_state(weights)
    state = clip_text.canonical(state)
    config = clip_text.infer_config(
        state, data.get("hidden_act", "quick_gelu"), data["num_attention_heads"], bool(suffix)
    )
    return clip_text.build(state, config, dtype), clip_tokenizer.from_folder(path / f"tokenizer{suffix}")


def _load_taesd(path: str, dtype: torch.dtype) -> nn.Module:
    """A tiny autoencoder from a diffusers folder, or from the decoder's file that WebUIs keep (taesd_decoder.pth,
    taesdxl_decoder.pth).
    """
    diffusers = _diffusers()
    if Path(path).is_file():
        state, _ = read_state(Path(path))
        tiny = diffusers.AutoencoderTiny()
        tiny.encoder = nn.Identity()  # pictures are only decoded
        try:
            tiny.decoder.load_state_dict(taesd_decoder_state(state))
        except RuntimeError as error:
            raise CheckpointError(
                f"taesd: {path} is no decoder of a tiny autoencoder for SD 1.x, 2.x or SDXL: {error}"
            ) from error
        return tiny.to(dtype)
    try:
        return diffusers.AutoencoderTiny.from_pretrained(path, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"taesd: {path} is neither a decoder's file nor a diffusers folder of a tiny autoencoder: {error}"
        ) from error


def taesd_decoder_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A decoder's weights under diffusers' names. The original numbers its layers from a clamp without weights on,
    diffusers after it.
    """
    layers = [key for key in state if key.split(".")[0].isdigit()]
    if layers:
        return {
            f"layers.{int(number) - 1}.{rest}": state[key] for key in layers for number, _, rest in [key.partition(".")]
        }
    return {
        key.removeprefix("decoder."): value for key, value in state.items() if key.startswith(("decoder.", "layers."))
    }
