"""scripts/studies/decoding.py on a small folder."""

import re
import runpy
import sys

from conftest import REPOSITORY, encode, flat_image


def test_each_way_is_timed_on_all_images_and_the_users_cache_is_left_alone(tmp_path, monkeypatch, capsys):
    folder, cache = tmp_path / "images", tmp_path / "cache"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.png").write_bytes(encode(flat_image(10 * number, size=40)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    arguments = ["decoding.py", str(folder), "--num", "18", "--rounds", "1", "--size", "32"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(REPOSITORY / "scripts" / "studies" / "decoding.py"), run_name="__main__")
    printed = capsys.readouterr().out
    rates = re.fullmatch(r"18 images, \d+ cores: read ([\d,]+), Pillow ([\d,]+), store ([\d,]+) images/s\n", printed)
    assert rates
    assert all(int(rate.replace(",", "")) > 0 for rate in rates.groups())
    assert not cache.exists()
