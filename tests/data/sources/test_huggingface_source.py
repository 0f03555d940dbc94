import os
import shutil
import tempfile
from pathlib import Path

import pytest
from conftest import encode, flat_image, rows_of
from image_sets import in_digest_order, keys_of, numbers_of

from glo_lightning import LSUNDataModule
from glo_lightning.data.source import read_image
from glo_lightning.data.sources.find import open_source
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat


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
    with pytest.raises(InputError, match="Give a whole dataset"):
        open_source(tmp_path / "set")
    with pytest.raises(InputError, match=r"column"):
        open_source(tmp_path / "set", source={"class_path": "huggingface", "colum": "picture"})
    with pytest.raises(InputError, match=r"--data\.download true"):
        open_source("somebody/something", "huggingface")


RECORDS = [encode(flat_image(number)) for number in range(5)]
TABLES = {
    "bytes": (RECORDS, "binary"),
    "large bytes": (RECORDS, "large_binary"),
    "bytes and path": ([{"bytes": record, "path": None} for record in RECORDS], None),
    "one is null": ([*RECORDS[:4], None], "binary"),
}


@pytest.mark.parametrize(("records", "kind"), TABLES.values(), ids=TABLES)
def test_a_parquet_file_that_datasets_did_not_write(tmp_path, records, kind):
    pytest.importorskip("datasets", reason="needs the extra hub")
    import pyarrow
    from pyarrow import parquet

    column = pyarrow.array(records, kind and getattr(pyarrow, kind)())
    parquet.write_table(pyarrow.table({"number": range(5), "image": column}), tmp_path / "train.parquet")
    for root in (tmp_path, tmp_path / "train.parquet"):
        source = open_source(root)
        for row, number in enumerate(numbers_of(source)):
            if records[number] is not None:
                assert rows_of(read_image(source, row, ImageFormat(32))[None]).item() == number
            else:
                with pytest.raises(InputError, match=r"key train/4 of .* is not an image \(it is null\)"):
                    read_image(source, row, ImageFormat(32))


def test_one_of_several_columns_of_bytes_is_chosen_by_its_flag(tmp_path):
    pytest.importorskip("datasets", reason="needs the extra hub")
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": RECORDS, "b": RECORDS[::-1]}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"the columns a, b of bytes\. .* huggingface --data\.source\.column a"):
        open_source(tmp_path)
    source = open_source(tmp_path, {"class_path": "huggingface", "column": "b"})
    assert source.read(numbers_of(source).index(0)) == RECORDS[4]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("is_there", [False, True])
def test_the_cache_of_somebody_else(hub_set, monkeypatch, is_there):
    base = Path(tempfile.mkdtemp())  # others may not enter pytest's own folder
    base.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "cache"))
    (base / "set").mkdir()
    hub_set.to_parquet(base / "set" / "train.parquet")
    if is_there:
        assert len(open_source(base / "set")) == 11
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match=r"cache .*: cannot be written .* Set XDG_CACHE_HOME to another folder"):
            open_source(base / "set")
    finally:
        os.seteuid(0)
        shutil.rmtree(base)
