"""Memory that must come back: after unloading, at a pause, and when the GPU is full."""

from __future__ import annotations

from typing import Any

import torch

from .machine import Machine, Missing


def unload(machine: Machine) -> dict[str, Any]:
    """What is left on the device after load, score and drop, three times over."""
    if not machine.cuda:
        raise Missing("memory of a CUDA device is what is measured here")
    machine.clean()
    before = machine.allocated()
    rows = []
    for _ in range(3):
        scorer = machine.scorer("fp16")
        scorer.score("a cat", [_picture()] * 4)
        loaded = machine.allocated()
        del scorer
        machine.clean()
        left = {"left_mib": (machine.allocated() - before) / 2**20, "reserved_mib": machine.reserved() / 2**20}
        rows.append({"loaded_mib": (loaded - before) / 2**20, **left})
    return {"rows": rows}


def pause(machine: Machine) -> dict[str, Any]:
    """A scorer moved to the CPU and back, as at a pause and by the policy of small GPUs; its scores stay the same."""
    scorer = machine.scorer("fp16" if machine.cuda else "fp32")
    first = scorer.score("a cat", [_picture()])[0]
    loaded = machine.allocated()
    scorer.to("cpu")
    machine.clean()
    aside = machine.allocated()
    scorer.to(machine.device)
    again = scorer.score("a cat", [_picture()])[0]
    return {"loaded_mib": loaded / 2**20, "aside_mib": aside / 2**20, "score_difference": abs(again - first)}


def out_of_memory(machine: Machine) -> dict[str, Any]:
    """The GPU is filled by real allocations; the WebUI's holder must score on the CPU and say so."""
    if not machine.cuda:
        raise Missing("memory of a CUDA device is what is measured here")
    from imagereward_webui.lifecycle import ScorerHolder

    class Host:
        """Answers as a WebUI with this GPU would."""

        def device(self) -> str:
            return str(machine.device)

        def option(self, name: str) -> str:
            return {"precision": "fp16", "policy": "stay loaded"}[name]

        def models_dir(self) -> Any:
            return machine.weights.parent

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    import contextlib

    host = Host()
    host.no_checkpoint_loading = contextlib.nullcontext  # type: ignore[attr-defined]
    host.interrupted = lambda: False  # type: ignore[attr-defined]
    free, _ = torch.cuda.mem_get_info(machine.device)
    hog = torch.empty(max(0, free - (200 << 20)), dtype=torch.uint8, device=machine.device)
    holder = ScorerHolder(host)
    score = holder.score(machine.weights.name, "a cat", [_picture()])[0]
    notes = holder.take_notes()
    del hog
    holder.unload()
    return {"score": score, "notes": "; ".join(notes)}


def _picture() -> Any:
    from PIL import Image

    return Image.linear_gradient("L").convert("RGB")
