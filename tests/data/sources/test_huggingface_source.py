import pytest
from conftest import encode, flat_image
from image_sets import in_digest_order, keys_of, numbers_of

from glo_lightning import LSUNDataModule
from glo_lightning.data.sources.find import open_source
from glo_lightning.errors import InputError


@pytest.fixture
def hub_set():
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    records = [{"bytes": encode(flat_image(number)), "path": None} for number in range(11)]
    columns = {"picture": records, "label": [n % 2 for n in range(11)], "big": [n > 5 for n in range(11)]}
    features = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])}
    features |= {"big": datasets.Value("bool")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_folder_of_parquet_or_arrow_is_read_by_datasets(hub_set, tmp_path, kind):
    folder = tmp_path / "set"
    if kind == "parquet":
        (folder / "data").mkdir(parents=True)
        for split, rows in (("train", range(8)), ("test", range(8, 11))):
            hub_set.select(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    else:
        import datasets

        parts = {"train": hub_set.select(range(8)), "test": hub_set.select(range(8, 11))}
        datasets.DatasetDict(parts).save_to_disk(folder)
    data = LSUNDataModule(folder, image_size=32, holdout_split="test")
    assert (data.num_images, len(data.source)) == (8, 11)
    assert keys_of(data.source)[:8] == in_digest_order([f"train/{n}" for n in range(8)])
    for row, number in enumerate(numbers_of(data.source)):
        number += 8 * (row >= 8)
        assert data.dataset[row][0][0, 0, 0] == number
        assert data.source.labels(row) == {"label": ["even", "odd"][number % 2], "big": str(int(number > 5))}
    assert open_source(folder).fingerprint == open_source(folder).fingerprint
    with pytest.raises(InputError, match=r"split val: .*has the splits train, test"):
        open_source(folder, split="val")


def test_a_root_that_is_not_a_dataset_of_images_is_refused(hub_set, tmp_path):
    (tmp_path / "set").mkdir()
    hub_set.select_columns(["label"]).to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(InputError, match=r"has no column of images\. Its columns are label"):
        open_source(tmp_path / "set")
    (tmp_path / "set" / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="cannot be loaded as a dataset"):
        open_source(tmp_path / "set")
    with pytest.raises(InputError, match=r"column"):
        open_source(tmp_path / "set", source={"class_path": "huggingface", "colum": "picture"})
    with pytest.raises(InputError, match=r"--data\.download true"):
        open_source("somebody/something", "huggingface")
