import subprocess
import sys

from conftest import REPOSITORY, encode, flat_image


def test_build_lmdb_makes_what_the_dataset_reads(tmp_path):
    from glo_lightning.data.lmdb_source import LMDBSource

    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    for row in range(5):
        (images / f"{row}.png").write_bytes(encode(flat_image(row, size=300)))
    (images / "below" / "copy.png").write_bytes((images / "0.png").read_bytes())
    (images / "broken.jpg").write_bytes(b"not an image")
    script = [sys.executable, REPOSITORY / "scripts" / "build_lmdb.py", tmp_path / "lmdb", images, "--size", "64"]
    done = subprocess.run([*script, "--quality", "100"], check=True, capture_output=True, text=True)
    assert "6 images, 1 files left out" in done.stdout
    assert "broken.jpg" in done.stderr
    dataset = LMDBSource(tmp_path / "lmdb", 64)
    reds = [int(dataset.read(row)[0, 0, 0]) for row in range(6)]
    assert sorted(reds) == [0, 0, 1, 2, 3, 4]
    assert all(len(dataset.key(row)) == 40 for row in range(6))

    again = subprocess.run(script, capture_output=True, text=True)
    assert again.returncode != 0
    assert "Traceback" not in again.stderr
    nothing = subprocess.run([*script[:2], tmp_path / "b", images / "broken.jpg"], capture_output=True, text=True)
    assert nothing.returncode != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "lmdb"]
