"""The generation loop: the same order of steps as the hosts', around a sampler that paints the seed."""

from __future__ import annotations

import copy
import json
from typing import Any

from PIL import Image

from . import infotext


class Processing:
    """`p`: one job's inputs and, while it runs, its state."""

    def __init__(
        self,
        host: Any,
        *,
        is_api: bool,
        prompt: Any = "a cat",
        negative_prompt: str = "",
        seed: int = 100,
        batch_size: int = 1,
        n_iter: int = 1,
        width: int = 8,
        height: int = 8,
        mask: Image.Image | None = None,
        hires: bool = False,
        **extra: Any,
    ):
        self.host, self.is_api = host, is_api
        self.prompt, self.negative_prompt, self.seed, self.subseed = prompt, negative_prompt, seed, 5000
        self.batch_size, self.n_iter, self.width, self.height = batch_size, n_iter, width, height
        self.steps, self.sampler_name, self.cfg_scale = 20, "Euler", 7.0
        self.mask_for_overlay, self.hires = mask, hires
        self.do_not_save_samples = self.do_not_save_grid = False
        self.outpath_samples, self.outpath_grids = (
            str(host.folder / "outputs" / "images"),
            str(host.folder / "outputs" / "grids"),
        )
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: dict[str, int] = {}
        self.scripts, self.script_args = None, {}
        self.all_prompts = self.all_negative_prompts = self.all_seeds = self.all_subseeds = None
        self.iteration = 0
        for name, value in extra.items():
            setattr(self, name, value)

    def comment(self, text: str) -> None:
        self.comments[text] = 1

    def close(self) -> None:
        """What a job holds is given back."""

    def save_samples(self) -> bool:
        opts, state = self.host.options, self.host.state
        stopped = state.interrupted or state.skipped
        return bool(opts.samples_save and not self.do_not_save_samples and (opts.save_incomplete_images or not stopped))

    def sample(self) -> list[Image.Image]:
        """One plain picture per seed: red is the seed's last two digits, so that tests know each image's score."""
        if self.hires and self.host.options.save_images_before_highres_fix:
            for i, seed in enumerate(self.seeds):
                text = infotext.create(
                    self,
                    self.all_prompts,
                    self.all_seeds,
                    self.all_subseeds,
                    index=self.iteration * self.batch_size + i,
                )
                self.host.images.save_image(
                    picture(seed), self.outpath_samples, "", seed, info=text, p=self, suffix="-before-highres-fix"
                )
        return [picture(seed, (self.width, self.height)) for seed in self.seeds]


def picture(seed: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (int(seed) % 100, 0, 0))


class Txt2Img(Processing):
    """A job that is built without scripts, as the host's API builds it: `override_settings` may name a checkpoint, of
    which each paints its own green.
    """

    def __init__(self, host: Any, *, sd_model: Any, override_settings: dict[str, Any], **fields: Any):
        super().__init__(host, is_api=False, **fields)
        self.model = str(override_settings.get("sd_model_checkpoint") or "default").partition(".")[0]
        self.outpath_samples = f"{self.outpath_samples}/{self.model}"

    def sample(self) -> list[Image.Image]:
        self.host.generated.append({"model": self.model, "prompt": self.prompt, "seed": self.seed, "steps": self.steps})
        green = sum(self.model.encode()) % 200
        return [
            Image.new("RGB", (self.width, self.height), (seed & 255, green, seed >> 8 & 255)) for seed in self.seeds
        ]


class Nothing:
    """Stands in for the scripts of a job that has none."""

    def hook(self, *_: Any, **__: Any) -> None:
        return None


class Processed:
    """What a job returns."""

    def __init__(
        self,
        p: Any,
        images_list: list[Any],
        seed: int = -1,
        info: str = "",
        subseed: int = -1,
        index_of_first_image: int = 0,
        infotexts=None,
    ):
        self.images, self.info, self.seed, self.subseed = images_list, info, seed, subseed
        self.prompt, self.negative_prompt = p.prompt, p.negative_prompt
        self.index_of_first_image = index_of_first_image
        self.infotexts = infotexts or [info] * len(images_list)
        self.all_prompts = p.all_prompts or [p.prompt]
        self.all_negative_prompts = p.all_negative_prompts or [p.negative_prompt]
        self.all_seeds, self.all_subseeds = p.all_seeds or [seed], p.all_subseeds or [subseed]
        self.extra_generation_params = p.extra_generation_params
        self.comments = "".join(f"{comment}\n" for comment in p.comments)
        self.batch_size = p.batch_size
        self.extra_images: list[Any] = []

    def js(self) -> str:
        return json.dumps(
            {
                "prompt": self.all_prompts[0],
                "negative_prompt": self.all_negative_prompts[0],
                "infotexts": self.infotexts,
                "all_seeds": self.all_seeds,
                "all_subseeds": self.all_subseeds,
                "all_prompts": self.all_prompts,
                "index_of_first_image": self.index_of_first_image,
                "extra_generation_params": self.extra_generation_params,
            },
            default=lambda _: None,
        )

    def gallery(self) -> list[Any]:
        return self.images + self.extra_images  # Forge: a tuple raises here


class PostprocessImageArgs:
    def __init__(self, image: Any):
        self.image = image


class BatchList:
    def __init__(self, images: list[Any]):
        self.images = images


def build(host: Any) -> dict[str, Any]:
    """The functions of the `processing` module for this host."""

    def process_images(p):
        p.scripts = p.scripts or Nothing()
        p.scripts.hook("before_process", p)
        return inner(p)

    def inner(p):
        opts, state, save = host.options, host.state, host.images.save_image
        total = p.batch_size * p.n_iter
        p.all_prompts = list(p.prompt) if isinstance(p.prompt, list) else [p.prompt] * total
        p.all_negative_prompts = [p.negative_prompt] * total
        p.all_seeds, p.all_subseeds = [p.seed + i for i in range(total)], [p.subseed + i for i in range(total)]
        p.scripts.hook("process", p)
        output, texts = [], []
        for n in range(p.n_iter):
            p.iteration = n
            state.skipped = False
            if state.interrupted or state.stopping_generation:
                break
            part = slice(n * p.batch_size, (n + 1) * p.batch_size)
            p.prompts, p.negative_prompts = p.all_prompts[part], p.all_negative_prompts[part]
            p.seeds, p.subseeds = p.all_seeds[part], p.all_subseeds[part]
            p.scripts.hook(
                "before_process_batch", p, batch_number=n, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds
            )
            if not p.prompts:
                break
            p.scripts.hook("process_batch", p, batch_number=n, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds)
            if n == 0:
                (host.folder / "params.txt").write_text(
                    infotext.create(p, p.all_prompts, p.all_seeds, p.all_subseeds, position_in_batch=0),
                    encoding="utf-8",
                )
            for callback in host.on_sample:
                callback(p, n)
            samples = p.sample()
            p.prompts, p.negative_prompts = p.all_prompts[part], p.all_negative_prompts[part]
            batch = BatchList(samples)
            p.scripts.hook("postprocess_batch_list", p, batch, batch_number=n)

            def text_of(index=0, use_main_prompt=False):
                return infotext.create(p, p.prompts, p.seeds, p.subseeds, use_main_prompt, index, p.negative_prompts)

            saving = p.save_samples()  # once per batch: what a per-image hook sets later comes too late
            for i, image in enumerate(batch.images):
                p.batch_index = i
                args = PostprocessImageArgs(image)
                p.scripts.hook("postprocess_image", p, args)
                args = PostprocessImageArgs(args.image)
                p.scripts.hook("postprocess_image_after_composite", p, args)
                image = args.image
                if saving:
                    save(
                        image,
                        p.outpath_samples,
                        "",
                        p.seeds[i],
                        p.prompts[i],
                        opts.samples_format,
                        info=text_of(i),
                        p=p,
                    )
                text = text_of(i)
                texts.append(text)
                if opts.enable_pnginfo:
                    image.info["parameters"] = text
                output.append(image)
                if p.mask_for_overlay is not None and opts.return_mask:
                    output.append(p.mask_for_overlay.convert("RGB"))
                if p.mask_for_overlay is not None and opts.return_mask_composite:
                    output.append(p.mask_for_overlay.convert("RGBA"))
        if not texts:
            texts.append(infotext.create(p, p.all_prompts, p.all_seeds, p.all_subseeds, position_in_batch=0))
        first = 0
        if (
            (opts.return_grid or opts.grid_save)
            and not p.do_not_save_grid
            and not (len(output) < 2 and opts.grid_only_if_multiple)
        ):
            grid = host.images.image_grid(output, p.batch_size)
            text = text_of(use_main_prompt=True)
            if opts.return_grid:
                texts.insert(0, text)
                grid.info["parameters"] = text
                output.insert(0, grid)
                first = 1
            if opts.grid_save:
                save(
                    grid,
                    p.outpath_grids,
                    "grid",
                    p.all_seeds[0],
                    p.all_prompts[0],
                    opts.grid_format,
                    info=text,
                    p=p,
                    grid=True,
                )
        processed = Processed(p, output, p.all_seeds[0], texts[0], p.all_subseeds[0], first, texts)
        p.scripts.hook("postprocess", p, processed)
        return processed

    return {
        "process_images": process_images,
        "create_infotext": infotext.create,
        "Processed": Processed,
        "StableDiffusionProcessingTxt2Img": lambda **fields: Txt2Img(host, **fields),
        "copy": copy.copy,
    }
