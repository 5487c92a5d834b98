"""What an API client sees. Each test runs on the stand-in host, and on a live one where IMAGEREWARD_TEST_HOST=http://…
names it.

IMAGEREWARD_TEST_SCORER names the scorer to use there (default: ImageReward-v1.0). A live host needs --api and a
checkpoint.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import urllib.error
import urllib.request

import pytest
from PIL import Image

from .conftest import TITLE
from .fakehost import infotext

LIVE = os.environ.get("IMAGEREWARD_TEST_HOST")


class FakeClient:
    scorer = "ImageReward-v1.0"

    def __init__(self, host):
        self._host = host

    def txt2img(self, script_name=None, script_args=None, alwayson_scripts=None, **fields):
        """(status, message or None, images, info)"""
        from fastapi import HTTPException

        accordion = (alwayson_scripts or {}).get("ImageReward", {}).get("args")
        try:
            processed = self._host.txt2img(
                script=script_name, script_args=script_args, accordion=accordion, seed=148, **fields
            )
        except HTTPException as error:
            return error.status_code, error.detail, [], {}
        assert self._host.errors == []
        return 200, None, processed.images, json.loads(processed.js())


class LiveClient:
    scorer = os.environ.get("IMAGEREWARD_TEST_SCORER", "ImageReward-v1.0")

    def txt2img(self, **fields):
        body = {"prompt": "a cat", "seed": 148, "steps": 2, "width": 64, "height": 64, "cfg_scale": 4, **fields}
        request = urllib.request.Request(
            f"{LIVE}/sdapi/v1/txt2img", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                data = json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["detail"], [], {}
        return (
            200,
            None,
            [Image.open(io.BytesIO(base64.b64decode(image))) for image in data["images"]],
            json.loads(data["info"]),
        )


@pytest.fixture(params=["stand-in", "live"])
def client(request, host):
    if request.param == "live" and not LIVE:
        pytest.skip("no IMAGEREWARD_TEST_HOST")
    return LiveClient() if request.param == "live" else FakeClient(host)


def accordion(client, **values):
    return {"ImageReward": {"args": [{"scorer": client.scorer, **values}]}}


def scores(info):
    return [float(found) for text in info["infotexts"] for found in re.findall(r", ImageReward: (-?\d+\.\d{4}),", text)]


def test_every_image_and_infotext_carries_its_score(client):
    status, _, images, info = client.txt2img(batch_size=2, n_iter=2, alwayson_scripts=accordion(client))
    assert status == 200 and info["all_seeds"] == [148, 149, 150, 151]
    found = scores(info)
    assert len(found) == 4 and len(set(found)) > 1
    first = info["index_of_first_image"]
    assert [image.info["parameters"] for image in images[first:]] == info["infotexts"][first:]
    assert info["extra_generation_params"]["ImageReward result"]["scores"][first:] == pytest.approx(found, abs=1e-4)


def test_settings_can_be_read_back(client):
    _, _, _, info = client.txt2img(negative_prompt="dog, (bad:1.2)", alwayson_scripts=accordion(client, sort=True))
    params = infotext.parse(info["infotexts"][-1])
    assert (params["Prompt"], params["Negative prompt"], params["Seed"]) == ("a cat", "dog, (bad:1.2)", "148")
    assert params["ImageReward sort"] == "True"


def test_filter_and_sort_keep_everything_aligned(client):
    _, _, _, everything = client.txt2img(batch_size=2, n_iter=2, alwayson_scripts=accordion(client))
    exact = everything["extra_generation_params"]["ImageReward result"]["scores"]  # the infotext's are rounded
    by_seed = dict(zip(everything["all_seeds"], [score for score in exact if score is not None]))
    limit = sorted(by_seed.values())[2]
    _, _, images, info = client.txt2img(
        batch_size=2, n_iter=2, alwayson_scripts=accordion(client, filter_by="score", limit=limit, sort=True)
    )
    expected = sorted((seed for seed, score in by_seed.items() if score >= limit), key=lambda seed: -by_seed[seed])
    first = info["index_of_first_image"]
    assert info["all_seeds"] == expected and len(images) == len(info["infotexts"]) == len(expected) + first
    assert [f"Seed: {seed}," in text for seed, text in zip(expected, info["infotexts"][first:])] == [True] * len(
        expected
    )
    assert all(len(info[name]) == len(expected) for name in ("all_prompts", "all_subseeds"))


def test_everything_filtered_is_no_error(client):
    status, _, images, info = client.txt2img(
        batch_size=2, alwayson_scripts=accordion(client, filter_by="score", limit=99)
    )
    assert status == 200 and images == [] and info["infotexts"] == [] and info["all_prompts"] == ["a cat"]
    assert info["extra_generation_params"]["ImageReward result"]["hidden"] == 2


def test_dropdown_script_with_the_accordions_scorer(client):
    status, _, images, info = client.txt2img(
        batch_size=2, script_name=TITLE.upper(), script_args=[True, "-99"], alwayson_scripts=accordion(client)
    )
    first = info["index_of_first_image"]
    assert status == 200 and len(images) == 2 + first and len(scores(info)) == 2
    assert all(f"Script: {TITLE}" in text for text in info["infotexts"])


@pytest.mark.parametrize("script_args", [[True, ""], [True, "abc"], [True, "0,5"], [True, None], [True], []])
def test_a_bad_limit_is_422_with_the_reason(client, script_args):
    status, message, _, _ = client.txt2img(script_name=TITLE, script_args=script_args)
    assert status == 422 and "Lower score limit" in message


def test_best_of_n(client):
    _, _, _, info = client.txt2img(
        batch_size=2, alwayson_scripts=accordion(client, filter_by="score", limit=-99, wanted=3, max_batches=5)
    )
    assert info["all_seeds"] == [148, 149, 150, 151]


def test_off_by_default(client):
    _, _, _, info = client.txt2img(batch_size=1)
    assert "ImageReward" not in json.dumps(info)
