"""Networks from tensors, strictly: what is missing or of another shape is an error that names it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imagereward_core.weights.checkpoint import Differences, differences, first

from .. import ldm
from ..errors import CheckpointError, MissingDependency
from ..imports import before_others
from ..log import logger

PARTS = {  # what the classes are called in messages
    "UNet2DConditionModel": "Stable Diffusion UNet",
    "AutoencoderKL": "Stable Diffusion VAE",
    "AutoencoderTiny": "Stable Diffusion tiny VAE",
}
# names that diffusers' first versions gave to the attention of a VAE
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def diffusers() -> Any:
    """The library, or MissingDependency."""
    try:
        before_others()
        import diffusers
    except ImportError as error:
        raise MissingDependency(
            f"the library diffusers (0.29.2 or newer) is needed and cannot be imported: {error}"
        ) from error
    return diffusers


def require(classes: Sequence[str], since: str, what: str) -> None:
    """CheckpointError if the diffusers that is here lacks one of these classes, or has them as they first were. since:
    the first that has them all, with the arguments that published models need.
    """
    library = diffusers()
    lacking = [name for name in classes if not hasattr(library, name)]
    if lacking or numbers(library.__version__) < numbers(since):
        why = f" (it has no {', '.join(lacking)})" if lacking else ""
        raise CheckpointError(f"{what} needs diffusers ≥ {since}, here {library.__version__}{why}")


def numbers(version: str) -> list[int]:
    """ "0.31.0.dev0" → [0, 31, 0]."""
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def empty(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """A diffusers network of that configuration on the meta device. Raises CheckpointError."""
    with torch.device("meta") if kind in PARTS else weightless():
        try:
            return getattr(diffusers(), kind).from_config(dict(config))
        except (ValueError, TypeError, KeyError, IndexError, NotImplementedError) as error:
            what = PARTS.get(kind, kind)
            raise CheckpointError(
                f"no {what.removeprefix('Stable Diffusion ')} can be made of its configuration: {error}"
            ) from error


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Within, the parameters of new modules have no storage, while what a module computes in its beginning has.
    Transformers keep tables of positions there that are in no checkpoint.
    """
    usual = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        usual(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    nn.Module.register_parameter = register  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = usual  # type: ignore[method-assign]


def build(
    kind: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    what: str,
    names: Mapping[str, str] | None = None,
) -> nn.Module:
    """A diffusers network holding `state` in `dtype`. Raises CheckpointError naming what does not fit.

    names: diffusers' name → the name in the file, for the message. Tensors without a place are one warning.
    """
    net = empty(kind, config)
    found = differences(state, net.state_dict())
    if found.missing or found.reshaped:
        raise CheckpointError(
            f"{what} does not have the form of a {PARTS.get(kind, kind)}: {_as_in_the_file(found, names or {})}"
        )
    if found.unexpected:
        logger.warning("%s holds %d tensors of no use (%s)", what, len(found.unexpected), first(found.unexpected))
    wanted = {key: tensor.to(dtype) for key, tensor in state.items() if key not in set(found.unexpected)}
    net.load_state_dict(wanted, strict=True, assign=True)
    return net


def _as_in_the_file(found: Differences, names: Mapping[str, str]) -> Differences:
    """The same with the file's own names."""

    def rename(text: str) -> str:
        name, space, rest = text.partition(" ")
        return f"{names.get(name, name)}{space}{rest}"

    return Differences(*(tuple(map(rename, part)) for part in (found.missing, found.unexpected, found.reshaped)))


def unet_from_ldm(state: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype, what: str) -> nn.Module:
    """A UNet from LDM weights without prefix."""
    layout = ldm.UNetLayout.of(config)
    names = ldm.unet_names(state, layout)
    wanted = empty("UNet2DConditionModel", config).state_dict()
    own = {name: ldm.UNET_PREFIX + ldm.unet_name_to_ldm(layout, name) for name in wanted}
    renamed = {names[key]: tensor for key, tensor in state.items()}
    return build("UNet2DConditionModel", config, renamed, dtype, what, own)


def vae_from_file(
    state: Mapping[str, Tensor], what: str, usual: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(configuration, weights under diffusers' names) of an autoencoder in LDM's or in diffusers' names, with or
    without its place in a checkpoint. usual: the family's configuration, for what no tensor tells. FLUX.2's
    statistics of latents (`bn`) have one name everywhere.
    """
    parts = ("encoder", "decoder", "quant_conv", "post_quant_conv")
    plain = {key.removeprefix(ldm.VAE_PREFIX): tensor for key, tensor in state.items()}
    statistics = {key: tensor for key, tensor in plain.items() if key.startswith("bn.")}
    plain = {key: tensor for key, tensor in plain.items() if key.split(".")[0] in parts}
    for key in ("encoder.conv_in.weight", "decoder.conv_in.weight"):
        if key not in plain:
            raise CheckpointError(f"{what} is not a Stable Diffusion VAE: it lacks {key}")
    try:
        if any(key.startswith("decoder.up_blocks.") for key in plain):
            levels = ldm.levels(plain, r"decoder\.up_blocks\.(\d+)\.")
            plain = {ldm.vae_name_to_ldm(_new_name(key), levels): tensor for key, tensor in plain.items()}
        names, config = ldm.vae_names(plain), ldm.vae_config(plain)
    except CheckpointError as error:
        raise CheckpointError(f"{what}: {error}") from error
    if usual is not None:
        also = {f"use_{name}": f"{name}.weight" in plain for name in ("quant_conv", "post_quant_conv")}
        config = {**usual, **config, **also}
    return config, {**{names[key]: _matrix(names[key], tensor) for key, tensor in plain.items()}, **statistics}


def vae_from_diffusers(
    config: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype, what: str
) -> nn.Module:
    """A diffusers folder's autoencoder; the names of diffusers' first versions are understood."""
    renamed = {_new_name(key): _matrix(_new_name(key), tensor) for key, tensor in state.items()}
    return build("AutoencoderKL", config, renamed, dtype, what)


def _new_name(key: str) -> str:
    found = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\..*)", key)
    return f"{found[1]}{OLD_ATTENTION[found[2]]}{found[3]}" if found else key


def _matrix(name: str, tensor: Tensor) -> Tensor:
    """Attention in a VAE is stored as 1×1 convolutions by LDM; diffusers keeps matrices."""
    return tensor.flatten(1) if ".attentions." in name and tensor.dim() == 4 else tensor
