"""What users of the reference package do with a model as a torch module: move it, freeze it, list its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..model.quantize import is_quantized

Self = TypeVar("Self", bound="ModuleLike")


class ModuleLike:
    """A scorer's modules under one roof. `net` is the network; a scorer with a head of its own names it in `parts`."""

    net: nn.Module
    device: torch.device

    def parts(self) -> dict[str, nn.Module]:
        """Prefix of the parameters' names → module; "" is the network itself."""
        return {"": self.net}

    def heads(self) -> list[nn.Module]:
        """Modules that stay fp32 in every precision."""
        return []

    @property
    def quantized(self) -> bool:
        """Whether the network is int8: CPU only, and without gradients."""
        return is_quantized(self.net)

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """`to(device)`, `to(dtype)`, `to(device, dtype)`, `to(tensor)`, as of a torch module; heads stay fp32."""
        device, dtype = placement(args, kwargs)
        if self.quantized and (dtype not in (None, torch.float32) or (device is not None and device.type != "cpu")):
            raise ConfigError(
                f"{getattr(self, 'name', 'this scorer')} was loaded with precision int8, which runs on the CPU only;"
                " load it again with another precision"
            )
        kept = {id(module) for head in self.heads() for module in head.modules()}
        for part in self.parts().values():
            if device is not None:
                part.to(device)
            for module in part.modules():
                if dtype is not None and id(module) not in kept:
                    cast(module, dtype)
        if device is not None:
            self.device = device
        return self

    def half(self: Self) -> Self:
        """fp16; heads stay fp32."""
        return self.to(torch.float16)

    def bfloat16(self: Self) -> Self:
        """bf16; heads stay fp32."""
        return self.to(torch.bfloat16)

    def float(self: Self) -> Self:
        """fp32."""
        return self.to(torch.float32)

    def cpu(self: Self) -> Self:
        """To the CPU."""
        return self.to("cpu")

    def cuda(self: Self, index: int | None = None) -> Self:
        """To the first or the given CUDA device."""
        return self.to("cuda" if index is None else f"cuda:{index}")

    def train(self: Self, mode: bool = True) -> Self:
        """Training mode (dropout) on or off."""
        for part in self.parts().values():
            part.train(mode)
        return self

    def eval(self: Self) -> Self:
        """Training mode off, as scorers are loaded."""
        return self.train(False)

    @property
    def training(self) -> bool:
        """Whether the network is in training mode."""
        return self.net.training

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Whether the weights take gradients; loaded scorers do not."""
        for part in self.parts().values():
            part.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the weights' gradients."""
        for part in self.parts().values():
            part.zero_grad(set_to_none)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of all parts."""
        for prefix, part in self.parts().items():
            yield from part.named_parameters(prefix)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of all parts."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of all parts."""
        for prefix, part in self.parts().items():
            yield from part.named_modules(prefix=prefix)

    def modules(self) -> Iterator[nn.Module]:
        """The modules of all parts."""
        for _, module in self.named_modules():
            yield module

    def state_dict(self) -> dict[str, Tensor]:
        """Every weight by name."""
        found: dict[str, Tensor] = {}
        for prefix, part in self.parts().items():
            found.update({f"{prefix}.{key}" if prefix else key: value for key, value in part.state_dict().items()})
        return found

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True) -> None:
        """Other weights of the same names and shapes. Raises RuntimeError as torch does."""
        prefixes = [f"{prefix}." for prefix in self.parts() if prefix]
        for prefix, part in self.parts().items():
            own = {
                key[len(prefix) + 1 :] if prefix else key: value
                for key, value in state.items()
                if (key.startswith(f"{prefix}.") if prefix else not key.startswith(tuple(prefixes)))
            }
            part.load_state_dict(own, strict=strict)


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """The module's own floating-point parameters and buffers to `dtype`, its children's not."""
    for parameter in module.parameters(recurse=False):
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            module._buffers[name] = buffer.to(dtype)


def placement(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.device | None, torch.dtype | None]:
    """(device, dtype) of the arguments of a module's `to`. Raises ConfigError for what is neither."""
    unknown = set(kwargs) - {"device", "dtype", "non_blocking", "copy"}
    if unknown:
        raise ConfigError(f"to() takes device and dtype; found {', '.join(sorted(unknown))}")
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for value in args:
        if isinstance(value, Tensor):
            device, dtype = value.device, value.dtype
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, (str, int, torch.device)) and not isinstance(value, bool):
            device = value
        elif value is not None and not isinstance(value, bool):
            raise ConfigError(f"to() takes a device, a dtype or a tensor; found {type(value).__name__}")
    if dtype is not None and not dtype.is_floating_point:
        raise ConfigError(f"a scorer's weights are floating-point; found {dtype}")
    return None if device is None else torch.device(device), dtype
