import os

import numpy as np
import pytest
from conftest import flat_image
from image_sets import NAMES, in_digest_order, keys_of, write_folder
from PIL import Image, features

from glo_lightning import LSUNDataModule
from glo_lightning.data.image_files import find_images, read_images
from glo_lightning.data.source import read_image
from glo_lightning.data.sources.find import open_source
from glo_lightning.data.sources.folder import SUFFIXES
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat


def test_files_are_sorted_by_the_digest_of_their_paths_and_subfolders_are_classes(tmp_path):
    folder = write_folder(tmp_path / "photos", NAMES, lossless=True)
    (folder / "cats" / "README.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not an image either")
    source = open_source(folder)
    assert keys_of(source) == in_digest_order(NAMES)
    reds = [int(read_image(source, row, ImageFormat(32))[0, 9, 9]) for row in range(5)]
    assert [NAMES[red] for red in reds] == keys_of(source)
    attributes = LSUNDataModule(folder).attributes
    assert attributes.values == {"class": ["cats", "dogs"]}
    assert attributes.table[:, 0].tolist() == [{"c": 0, "d": 1, "l": -1}[key[0]] for key in keys_of(source)]


def test_a_folder_may_have_a_table_of_attributes(tmp_path):
    folder = write_folder(tmp_path / "photos", NAMES)
    (folder / "attributes.csv").write_text("key,mood\ncats/1.png,good\nloose.png,\n")
    attributes = LSUNDataModule(folder).attributes
    assert attributes.values == {"class": ["cats", "dogs"], "mood": ["", "good"]}
    assert [keys_of(open_source(folder))[row] for row in attributes.rows(["mood=good"]).tolist()] == ["cats/1.png"]


def test_links_to_folders_are_followed_but_not_to_a_parent(tmp_path):
    folder = write_folder(tmp_path / "photos", NAMES)
    write_folder(tmp_path / "others", ["1.png"])
    (folder / "cats" / "loop").symlink_to(folder)
    (folder / "birds").symlink_to(tmp_path / "others")
    assert sorted(keys_of(open_source(folder))) == sorted([*NAMES, "birds/1.png"])


@pytest.fixture
def odd_folder(tmp_path):
    """A picture among files that are none, links that lead nowhere, and a pipe, which would never end."""
    folder = write_folder(tmp_path / "photos", ["1.png"])
    for name in ("a.heic", "b.heic", "c.txt", "README", "attributes.csv", ".hidden.png", "._1.png"):
        (folder / name).write_text("key\n")
    (folder / "gone.png").symlink_to(tmp_path / "nothing")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    os.mkfifo(folder / "pipe.png")
    return folder


PASSED_OVER = "passed over: 2 .heic, 1 .txt, 1 without suffix, 3 that are no files"


def test_what_is_passed_over_is_named_and_counted(odd_folder, caplog):
    with caplog.at_level("INFO", "glo_lightning"):
        assert keys_of(open_source(odd_folder)) == ["1.png"]
        assert find_images([odd_folder]) == [odd_folder / "1.png"]
    for name in ("gone.png", "circle.png", "pipe.png"):
        assert caplog.text.count(f"passed over {odd_folder / name}: it is a link to nothing, or no regular file") == 2
    assert caplog.text.count(PASSED_OVER) == 2
    (odd_folder / "1.png").unlink()
    with pytest.raises(InputError, match=f"holds no images; {PASSED_OVER}"):
        open_source(odd_folder)


def test_names_that_are_not_utf8_can_be_printed(tmp_path, caplog):
    folder = tmp_path / "photos"
    write_folder(folder, [os.fsdecode(b"caf\xe9/1.png"), "other/1.png"])
    (folder / os.fsdecode(b"\xe9.png")).symlink_to(tmp_path / "nothing")
    data, (images, names) = LSUNDataModule(folder, image_size=32), read_images([folder], ImageFormat(32))
    assert len(images) == data.num_images == 2
    assert data.attributes.values == {"class": ["caf\\xe9", "other"]}
    assert (caplog.text + "".join(names)).encode().count(b"xe9") >= 3


def test_a_root_that_is_not_utf8_is_refused(run, tmp_path):
    folder = write_folder(tmp_path / os.fsdecode(b"caf\xe9"), ["1.png"])
    status, line = run("--data.root", folder, "--output", tmp_path / "a")
    assert (status, "config.yaml" in line, "caf" in line) == (2, True, True)
    assert not (tmp_path / "a").exists()


def test_a_pipe_is_no_image_file(odd_folder):
    for path in (odd_folder / "pipe.png", odd_folder / "gone.png"):
        with pytest.raises(InputError, match="no such file"):
            find_images([path])


# Suffixes whose format Pillow does not write.
UNWRITTEN = {".bw", ".cur", ".dcx", ".fli", ".flc", ".psd", ".qoi", ".ras", ".xpm"}


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - UNWRITTEN))
def test_what_pillow_writes_under_a_suffix_is_an_image(tmp_path, suffix):
    if suffix in (".avif", ".avifs") and not features.check("avif"):
        pytest.skip("needs libavif")
    name = f"picture{suffix.upper()}"
    mode = {".msp": "1", ".xbm": "1", ".pbm": "1"}.get(suffix, "RGB")
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).convert(mode).save(tmp_path / name)
    source = open_source(tmp_path)
    assert keys_of(source) == [name]
    assert read_image(source, 0, ImageFormat(8)).min() >= 250


def test_suffixes_without_an_image_are_those_that_pillow_has_for_other_formats():
    others = {suffix for suffix, name in Image.registered_extensions().items() if suffix not in SUFFIXES}
    assert others - {".eps", ".ps", ".fit", ".fits", ".pfm", ".pcd", ".im", ".iim"} == {
        *(".blp", ".bufr", ".emf", ".ftc", ".ftu", ".gbr", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".palm", ".pdf"),
        *(".pxr", ".wmf"),
    }


def test_deep_folders_are_listed_at_once(tmp_path):
    folder = tmp_path
    for _ in range(300):
        folder = folder / "a"
        folder.mkdir()
    write_folder(folder, ["1.png"])
    assert keys_of(open_source(tmp_path)) == ["a/" * 300 + "1.png"]


def test_a_folder_that_changed_has_another_fingerprint(tmp_path):
    folder = write_folder(tmp_path / "photos", NAMES)
    before = open_source(folder).fingerprint
    assert before == open_source(folder).fingerprint
    Image.fromarray(flat_image(99)).save(folder / "loose.png", compress_level=0)
    assert open_source(folder).fingerprint[0] == before[0]
    assert open_source(folder).fingerprint[1:] != before[1:]


def test_mixed_sizes_modes_and_animations_are_images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("L", (50, 20), 90).save(folder / "grey.png")
    Image.new("RGBA", (20, 60), (90, 90, 90, 255)).save(folder / "alpha.png")
    Image.new("P", (20, 60), 0).save(folder / "palette.gif")
    frames = [Image.new("RGB", (40, 40), (shade, 0, 0)) for shade in (90, 200)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    source = open_source(folder)
    reds = {key: int(read_image(source, row, ImageFormat(32))[0, 16, 16]) for row, key in enumerate(keys_of(source))}
    assert reds == {"grey.png": 90, "alpha.png": 90, "palette.gif": 0, "moving.webp": 90, "moving.gif": 90}
