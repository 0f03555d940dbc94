"""Arrays, tables, LMDBs and lists that are damaged at random places are read, or end in one line."""

import gzip
import signal

import numpy as np
import pytest
from conftest import encode, flat_image, write_lmdb
from damage import outcomes, outcomes_in_children
from image_sets import write_idx

from glo_lightning.data.attributes import read_labels
from glo_lightning.data.source import read_image
from glo_lightning.data.sources.find import open_source
from glo_lightning.data.sources.lmdb import LMDBSource
from glo_lightning.images import ImageFormat

TIMES = pytest.mark.parametrize("times", [200, pytest.param(5000, marks=pytest.mark.slow)])
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of what it repairs
RECORDS = {b"%02d" % n: encode(flat_image(n, 8)) for n in range(6)}


def write_packed_idx(path, images):
    write_idx(path, images)
    path.write_bytes(gzip.compress(path.read_bytes()))


WRITERS = {
    "train-images-idx3-ubyte": write_idx,
    "train-images-idx3-ubyte.gz": write_packed_idx,
    "a.npy": np.save,
    "fortran.npy": lambda path, images: np.save(path, np.asfortranarray(images)),
    "a.npz": lambda path, images: np.savez(path, x=images, y=np.arange(6)),
    "compressed.npz": lambda path, images: np.savez_compressed(path, x=images, y=np.array(["a", "b"] * 3)),
}


@pytest.mark.parametrize("name", WRITERS)
@TIMES
def test_damaged_arrays(name, tmp_path, times):
    WRITERS[name](tmp_path / name, np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8))

    def read(content: bytes):
        (tmp_path / name).write_bytes(content)
        source = open_source(tmp_path / name)
        return read_image(source, len(source) - 1, ImageFormat(8)).shape

    assert outcomes((tmp_path / name).read_bytes(), read, times) <= {(3, 8, 8), 1}


@pytest.mark.parametrize("kind", ["parquet", "arrow", "foreign parquet"])
@TIMES  # datasets takes 50 ms for each
def test_damaged_tables(kind, tmp_path, times):
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    import pyarrow
    from pyarrow import parquet

    records = [{"bytes": record, "path": None} for record in RECORDS.values()]
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(2)})
    table = datasets.Dataset.from_dict({"image": records, "label": [0, 1] * 3}, features=columns)
    if kind == "arrow":
        table.save_to_disk(tmp_path / "whole")
        (file,) = (tmp_path / "whole").glob("*.arrow")
    else:
        file = tmp_path / "whole.parquet"
        if kind == "parquet":
            table.to_parquet(file)
        else:
            parquet.write_table(pyarrow.table({"image": list(RECORDS.values())}), file)

    def read(content: bytes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / f"train.{kind.split()[-1]}").write_bytes(content)
        return read_image(open_source(folder), 0, ImageFormat(8)).shape

    assert outcomes(file.read_bytes(), read, times) <= {(3, 8, 8), 1}


@TIMES
def test_damaged_labels(tmp_path, times):
    lines = [f'{n:02d},{"odd" if n % 2 else "even"},"a, ""quoted"" one"' for n in range(6)]
    file = tmp_path / "attributes.csv"

    def read(content: bytes):
        file.write_bytes(content)
        return type(read_labels(tmp_path, RECORDS))

    assert outcomes("\n".join(["key,parity,other", *lines]).encode(), read, times) == {dict, 1}


@TIMES
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_damaged_lmdbs(tmp_path, times, monkeypatch):
    whole = (write_lmdb(tmp_path / "whole", RECORDS) / "data.mdb").read_bytes()
    folder = tmp_path / "lmdb"
    folder.mkdir()
    monkeypatch.setattr("glo_lightning.data.sources.lmdb.run_in_subprocesses", lambda actions: [0])  # this is a child

    def read(content: bytes):
        (folder / "data.mdb").unlink(missing_ok=True)  # of another inode it is opened again
        (folder / "data.mdb").write_bytes(content)
        source = open_source(folder, "lmdb")
        for row in range(len(source)):
            shape = read_image(source, row, ImageFormat(8)).shape
        return shape

    crashes = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT}
    assert {1} <= outcomes_in_children(whole, read, times) - crashes <= {(3, 8, 8), 1}


@TIMES
def test_damaged_lists_of_keys(tmp_path, times, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("glo_lightning.data.sources.lmdb.run_in_subprocesses", lambda actions: [0])
    folder = write_lmdb(tmp_path / "lmdb", RECORDS)
    keys = LMDBSource(folder).packed_keys.tolist()
    (file,) = (tmp_path / "cache" / "glo_lightning" / "keys").iterdir()

    def read(content: bytes):
        file.write_bytes(content)
        return LMDBSource(folder).packed_keys.tolist() == keys

    assert outcomes(file.read_bytes(), read, times) == {True}
