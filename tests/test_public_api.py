"""What `from glo_lightning import ...` gives, and what it does not import."""

import importlib
import subprocess
import sys

import pytest

import glo_lightning


def test_the_public_names_resolve_and_are_listed():
    from glo_lightning.data.datamodule import LSUNDataModule
    from glo_lightning.encoding import encode
    from glo_lightning.explore.interactive import load_run
    from glo_lightning.generator import Generator
    from glo_lightning.losses import LaplacianLoss
    from glo_lightning.module import GLO

    homes = {
        "GLO": GLO, "Generator": Generator, "LSUNDataModule": LSUNDataModule, "LaplacianLoss": LaplacianLoss,
        "encode": encode, "load_run": load_run,
    }  # fmt: skip
    assert sorted(homes) == sorted(glo_lightning.__all__)
    assert all(getattr(glo_lightning, name) is home for name, home in homes.items())
    assert set(homes) <= set(dir(glo_lightning))
    assert not hasattr(glo_lightning, "Discriminator")


def test_names_are_imported_on_first_use_and_loading_a_run_imports_no_parser():
    program = """
import sys, glo_lightning
assert not {"torch", "pytorch_lightning"} & sys.modules.keys()
glo_lightning.LaplacianLoss
assert "pytorch_lightning" not in sys.modules
glo_lightning.load_run
assert "pytorch_lightning" in sys.modules
assert not {"jsonargparse", "glo_lightning.training"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_windows_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ImportError, match="needs Linux or macOS"):
        importlib.reload(glo_lightning)
