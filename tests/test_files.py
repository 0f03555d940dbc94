import resource

import pytest
import torch

from glo_lightning.files import write_whole as write_atomically


def test_a_write_cut_short_is_an_oserror_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.ckpt"
    write_atomically(path, lambda file: torch.save({"a": torch.zeros(3)}, file))
    content, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # what comes after is refused by the system
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(path, lambda file: torch.save({"a": torch.zeros(300_000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
