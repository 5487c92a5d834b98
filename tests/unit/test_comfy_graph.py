"""From a ComfyUI graph to the words of its positive prompt: what is followed, what never is, and where it stops."""

import time

import pytest

from imagereward_core.metadata.programs.comfy_graph import Unreadable, positive_prompt


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(positive, saved=("sampler", 0), **nodes):
    """A graph whose sampler is given `positive`, and the negative text "ugly"."""
    return {
        "ugly": node("CLIPTextEncode", text="ugly", clip=["model", 1]),
        "model": node("CheckpointLoaderSimple", ckpt_name="x.safetensors"),
        "sampler": node("KSampler", seed=1, steps=2, model=["model", 0], positive=positive, negative=["ugly", 0]),
        "decode": node("VAEDecode", samples=list(saved), vae=["model", 2]),
        "save": node("SaveImage", images=["decode", 0]),
        **nodes,
    }


CAT = node("CLIPTextEncode", text="a cat", clip=["model", 1])
DOG = node("CLIPTextEncode", text="a dog", clip=["model", 1])


@pytest.mark.parametrize(
    ("nodes", "prompt"),
    [
        ({"a": CAT}, "a cat"),
        ({"a": node("CLIPTextEncodeSDXL", text_g="a cat", text_l="a cat", width=1)}, "a cat"),
        ({"a": node("CLIPTextEncodeSDXL", text_g="a cat", text_l="on a mat", width=1)}, "a cat, on a mat"),
        ({"a": node("CLIPTextEncodeFlux", clip_l="", t5xxl="a cat", guidance=3.5)}, "a cat"),
        ({"a": node("FluxGuidance", guidance=3.5, conditioning=["b", 0]), "b": CAT}, "a cat"),
        ({"a": node("ControlNetApply", conditioning=["b", 0], image=["i", 0]), "b": CAT}, "a cat"),
        (
            {"a": node("ControlNetApplyAdvanced", positive=["b", 0], negative=["ugly", 0], strength=1), "b": CAT},
            "a cat",
        ),
        (
            {"a": node("ConditioningCombine", conditioning_1=["b", 0], conditioning_2=["c", 0]), "b": CAT, "c": DOG},
            "a cat, a dog",
        ),
        (
            {"a": node("ConditioningConcat", conditioning_to=["b", 0], conditioning_from=["c", 0]), "b": CAT, "c": DOG},
            "a cat, a dog",
        ),
        ({"a": node("ConditioningCombine", conditioning_1=["b", 0], conditioning_2=["b", 0]), "b": CAT}, "a cat"),
        ({"a": node("ConditioningZeroOut", conditioning=["b", 0]), "b": CAT}, ""),
        ({"a": node("Reroute", **{"": ["b", 0]}), "b": CAT}, "a cat"),
        ({"a": node("CLIPTextEncode", text=["t", 0]), "t": node("PrimitiveString", value="a cat")}, "a cat"),
        (
            {
                "a": node("CLIPTextEncode", text=["t", 0]),
                "t": node("StringConcatenate", string_a="a cat", string_b=["u", 0], delimiter=", "),
                "u": node("PrimitiveStringMultiline", value="on a mat"),
            },
            "a cat, on a mat",
        ),
        (
            {
                "a": node("CLIPTextEncode", text=["t", 0]),
                "t": node(
                    "ImpactWildcardProcessor", wildcard_text="a __pet__", populated_text="a cat", mode="populate"
                ),
            },
            "a cat",
        ),
        (
            {
                "a": node("CLIPTextEncode", text=["t", 0]),
                "t": node("SDXLPromptStyler", text_positive="a cat", text_negative="ugly", style="base"),
            },
            "a cat",
        ),
        ({"a": node("CLIPTextEncode", text="")}, ""),
        ({"a": node("Efficient Loader", positive="a cat", negative="ugly", ckpt_name="x")}, "a cat"),
    ],
)
def test_conditioning_is_followed_to_its_text(nodes, prompt):
    assert positive_prompt(graph(["a", 0], **nodes)) == prompt


def test_samplers_of_other_kinds():
    custom = {
        "s": node("SamplerCustomAdvanced", guider=["g", 0], sigmas=["x", 0], latent_image=["y", 0]),
        "g": node("CFGGuider", positive=["a", 0], negative=["n", 0], cfg=1),
        "a": CAT,
        "n": DOG,
        "save": node("SaveImage", images=["s", 0]),
    }
    assert positive_prompt(custom) == "a cat"
    custom["g"] = node("BasicGuider", model=["m", 0], conditioning=["a", 0])
    assert positive_prompt(custom) == "a cat"
    video = {
        "s": node("WanVideoSampler", steps=1, text_embeds=["t", 0]),
        "t": node("WanVideoTextEncode", positive_prompt="a cat", negative_prompt="ugly"),
        "save": node("VHS_VideoCombine", images=["s", 0]),
    }
    assert positive_prompt(video) == "a cat"
    piped = {
        "s": node("ImpactKSamplerBasicPipe", basic_pipe=["p", 0], seed=1),
        "p": node("ToBasicPipe", positive=["a", 0], negative=["n", 0]),
        "a": CAT,
        "n": DOG,
        "save": node("SaveImage", images=["s", 0]),
    }
    assert positive_prompt(piped) == "a cat"


def test_the_sampler_nearest_to_the_saved_image_counts():
    first = node("KSampler", seed=1, positive=["dog", 0], negative=["ugly", 0])
    nodes = {"cat": CAT, "dog": DOG, "first": first}
    data = graph(["cat", 0], **nodes)
    data["sampler"]["inputs"]["latent_image"] = ["first", 0]
    assert positive_prompt(data) == "a cat"
    assert positive_prompt(graph(["dog", 0], unused=node("KSampler", seed=1, positive=["cat", 0]), **nodes)) == "a dog"


def test_a_node_that_touches_up_faces_gives_way():
    face = node("FaceDetailer", seed=1, positive=["face", 0], negative=["ugly", 0], image=["decode", 0])
    data = graph(["cat", 0], cat=CAT, face=node("CLIPTextEncode", text="a face"), detailer=face)
    data["save"]["inputs"]["images"] = ["detailer", 0]
    assert positive_prompt(data) == "a cat"


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ({"a": node("ControlNetApplyAdvanced", positive=["a", 0], negative=["ugly", 0])}, "circles"),
        ({"a": node("ConditioningSetArea", conditioning=["b", 0]), "b": node("X", conditioning=["a", 0])}, "circles"),
        ({"a": node("CLIPTextEncode", text=["t", 0]), "t": node("Join", text_a=["t", 0], text_b="x")}, "circles"),
        ({"a": node("CLIPTextEncode", text=["t", 0]), "t": node("LanguageModel", seed=3)}, "not known"),
        ({"a": node("CLIPTextEncode", text=["gone", 0])}, "nowhere"),
        ({"a": node("CLIPTextEncode", text=5)}, "nowhere"),
        ({"a": node("Switch", one=["b", 0], two=["c", 0]), "b": CAT, "c": DOG}, "not known"),
    ],
)
def test_what_cannot_be_told_is_not_guessed(nodes, why):
    with pytest.raises(Unreadable, match=why):
        positive_prompt(graph(["a", 0], **nodes))


def test_the_negative_output_is_never_taken():
    nodes = {"a": node("ControlNetApplyAdvanced", positive=["b", 0], negative=["ugly", 0]), "b": CAT}
    with pytest.raises(Unreadable, match="not wanted"):
        positive_prompt(graph(["a", 1], **nodes))


def test_several_pictures_of_several_prompts():
    other = {
        "s2": node("KSampler", seed=1, positive=["dog", 0]),
        "save2": node("SaveImage", images=["s2", 0]),
    }
    with pytest.raises(Unreadable, match="several prompts"):
        positive_prompt(graph(["cat", 0], cat=CAT, dog=DOG, **other))
    with pytest.raises(Unreadable, match="no sampler"):
        positive_prompt({"save": node("SaveImage", images=["load", 0]), "load": node("LoadImage", image="x.png")})


def test_large_graphs_end():
    chain = {str(i): node("X", conditioning=[str(i + 1), 0]) for i in range(50_000)}
    doubling = {str(i): node("Join", text_a=[str(i + 1), 0], text_b=[str(i + 1), 0]) for i in range(60)}
    doubling["60"] = node("PrimitiveString", value="x")
    wide = {f"s{i}": node("KSampler", seed=1, positive=["cat", 0]) for i in range(20_000)}
    saves = {f"o{i}": node("SaveImage", images=[f"s{i}", 0]) for i in range(20_000)}
    start = time.process_time()
    with pytest.raises(Unreadable, match="circles, or is too large"):
        positive_prompt(graph(["0", 0], **chain))
    with pytest.raises(Unreadable, match="circles, or is too large"):
        positive_prompt(graph(["a", 0], a=node("CLIPTextEncode", text=["0", 0]), **doubling))
    with pytest.raises(Unreadable, match="too large"):
        positive_prompt(graph(["cat", 0], cat=CAT, **wide, **saves))
    assert time.process_time() - start < 60  # without limits the second would take years
