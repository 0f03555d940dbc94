"""scripts/benchmark.py on a few images: what it measures is not judged here."""

import functools
import json
import runpy
import sys

import pytest
from conftest import REPOSITORY


def run_script(monkeypatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    runpy.run_path(str(REPOSITORY / "scripts" / f"{name}.py"), run_name="__main__")


def test_the_benchmark_writes_what_it_measured(flat_lmdb, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    import benchmark

    monkeypatch.setattr(benchmark, "measure_pca", functools.partial(benchmark.measure_pca, num_rows=200))
    monkeypatch.setattr(benchmark, "measure_update", lambda device: 1.25)  # its tables are of gigabytes
    sizes = ("--rows=64", "--batch_size=8", "--batches=4", "--rounds=1", "--workers=1")
    arguments = ["benchmark.py", "--root", str(flat_lmdb), *sizes, "--json", str(tmp_path / "result.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    result = json.loads((tmp_path / "result.json").read_text())
    ratio = result["images_per_second"] / result["plain_images_per_second"]
    assert result["ratio_end_to_end"] == pytest.approx(ratio)
    assert result["ratio_update_3m_over_3k"] == 1.25
    assert {"ratio_step", "ratio_pca", "device", "floor_images_per_second", "peak_host_gb"} <= result.keys()
    assert result["share"].keys() == {"data", "generator", "loss", "update", "framework"}
    assert f"{result['ratio_step']:.2f}" in capsys.readouterr().out
