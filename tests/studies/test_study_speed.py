"""scripts/studies/speed/decoding.py on a small folder."""

import re

from conftest import encode, flat_image
from run_study import run_study


def test_each_way_is_timed_on_all_images_and_the_users_cache_is_left_alone(tmp_path, monkeypatch):
    folder, cache = tmp_path / "images", tmp_path / "cache"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.png").write_bytes(encode(flat_image(10 * number, size=40)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    printed = run_study("speed/decoding", folder, "--num", 18, "--rounds", 1, "--size", 32)
    rates = re.fullmatch(r"18 images, \d+ cores: read ([\d,]+), Pillow ([\d,]+), cache ([\d,]+) images/s", printed)
    assert rates
    assert all(int(rate.replace(",", "")) > 0 for rate in rates.groups())
    assert not cache.exists()
