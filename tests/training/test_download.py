"""ImageRewardDB from a server on the loopback interface that answers as the hub does."""

import io
import json
import zipfile

import pytest
from PIL import Image

from imagereward_core.errors import DataError, DownloadError
from imagereward_train.download import REPO, download_imagerewarddb
from imagereward_train.formats import read_items
from tests.unit.hub_server import Hub


class DatasetHub(Hub):
    """The hub server, with the listing of a data set's files."""

    def answer(self, handler, body):
        if handler.path.startswith(f"/api/datasets/{REPO}/"):
            prefix = f"/datasets/{REPO}/resolve/main/"
            names = [path.removeprefix(prefix) for path in self.files if path.startswith(prefix)]
            rows = [
                {"type": "file", "path": name, "size": len(self.files[prefix + name]), "oid": "0" * 40}
                for name in names
            ]
            return self.send(handler, 200, {"Content-Type": "application/json"}, json.dumps(rows).encode(), body)
        return super().answer(handler, body)

    def put_folder(self, split, number, prompts, top=""):
        """One zip as the data set has them: images and one JSON with a record per image."""
        stem = f"{split}_{number}"
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "WEBP")
        records, buffer = [], io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for prompt in range(prompts):
                for rank in (2, 1, 3):
                    name = f"{stem}-{prompt}-{rank}.webp"
                    file.writestr(top + name, picture.getvalue())
                    records.append(
                        {
                            "image_path": f"images/{split}/{stem}/{name}",
                            "prompt_id": f"{stem}-{prompt}",
                            "prompt": f"p {prompt}",
                            "rank": rank,
                        }
                    )
            file.writestr(f"{top}{stem}.json", json.dumps(records))
        self.put(f"datasets/{REPO}", f"images/{split}/{stem}.zip", buffer.getvalue())


@pytest.fixture
def hub(monkeypatch):
    with DatasetHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("imagereward_train.download.SUBSETS", {"1k": 4, "8k": None})
        server.put_folder("train", 10, 2)
        server.put_folder("train", 2, 3, top="train_2/")
        server.put_folder("train", 1, 2)
        server.put_folder("validation", 1, 2)
        server.put_folder("test", 1, 1)
        server.put(f"datasets/{REPO}", "README.md", b"# ImageRewardDB")
        yield server


def test_all_splits_in_the_order_of_their_numbers(hub, tmp_path):
    assert download_imagerewarddb(tmp_path) == tmp_path
    train = read_items(tmp_path / "train.json").items
    assert [item.id for item in train] == [
        "train_1-0",
        "train_1-1",
        "train_2-0",
        "train_2-1",
        "train_2-2",
        "train_10-0",
        "train_10-1",
    ]
    assert train[0].pairs == ((1, 0), (0, 2), (1, 2)) and train[2].ranking == (2.0, 1.0, 3.0)
    assert all(Image.open(image).size == (8, 8) for item in train for image in item.images)
    assert [len(read_items(tmp_path / name).items) for name in ("valid.json", "test.json")] == [2, 1]


def test_a_subset_fetches_no_more_than_it_needs_and_is_fetched_once(hub, tmp_path):
    for _ in range(2):
        download_imagerewarddb(tmp_path, "1k", ["train"])
        assert len(read_items(tmp_path / "train.json").items) == 4
    assert len(hub.downloads()) - len([r for r in hub.downloads() if r.path.startswith("/api")]) == 2
    assert not (tmp_path / "valid.json").exists()


def test_mistakes_and_refusals(hub, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="splits are train, validation, test"):
        download_imagerewarddb(tmp_path, "8k", ["valid"])
    hub.files = {path: content for path, content in hub.files.items() if "/test/" not in path}
    with pytest.raises(DownloadError, match="no zip under images/test"):
        download_imagerewarddb(tmp_path, "8k", ["test"])
    monkeypatch.setattr("imagereward_core.weights.hub.offline", lambda: True)
    with pytest.raises(DownloadError, match="offline mode is on"):
        download_imagerewarddb(tmp_path)
