from conftest import flat_image
from image_sets import NAMES, in_digest_order, keys_of, write_folder
from PIL import Image

from glo_lightning import LSUNDataModule
from glo_lightning.data.source import read_image
from glo_lightning.data.sources.find import open_source
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
