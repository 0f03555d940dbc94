"""What a run says: lines where there is no terminal."""

import re
import sys

import pytest
from conftest import TINY

from glo_lightning import progress
from glo_lightning.training.reports import duration


def test_a_run_into_a_file_writes_a_line_an_epoch(run, tmp_path):
    flags = [flag for flag in TINY if "progress" not in flag]
    assert run(*flags, "--data.holdout=8", "--max_epochs=2", "--prior=gaussian", "--output", tmp_path / "run") == (
        0,
        "",
    )
    lines = [line for line in run.output.splitlines() if line.startswith("epoch")]
    pattern = r"epoch {}/2: loss [\d.]+, val/psnr [\d.]+ dB, \d+ images/s{}"
    assert re.fullmatch(pattern.format(1, r", \d+ s left, then the prior gaussian"), lines[0])
    assert re.fullmatch(pattern.format(2, ""), lines[1])
    assert len(lines) == 2
    assert "\r" not in run.output
    assert len(run.output) < 1000


@pytest.mark.parametrize("flags", [["--progress=none"], ["--enable_progress_bar=false"]])
def test_no_progress_if_none_is_wanted(run, tmp_path, flags):
    tiny = [flag for flag in TINY if "progress" not in flag]
    assert run(*tiny, *flags, "--max_epochs=1", "--prior=null", "--output", tmp_path / "run") == (0, "")
    assert "epoch 1" not in run.output


def test_a_bar_in_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert progress.progress_mode() == "bar"


def test_long_work_logs_a_line_a_minute_and_one_at_its_end(caplog, monkeypatch):
    seconds = iter(range(0, 10_000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    caplog.set_level("INFO", "glo_lightning")
    bar = progress.Progress(total=100, desc="fitting", unit=" steps", miniters=1, mininterval=0)
    for _ in range(10):
        bar.update(10)
    bar.close()
    done = [int(re.match(r"fitting: (\d+)/100 steps in", record.message)[1]) for record in caplog.records]
    assert done[-1] == 100
    assert 2 <= len(done) - 1 <= 4  # in about 200 seconds


@pytest.mark.parametrize(("seconds", "said"), [(45, "45 s"), (720, "12 min"), (12_000, "3 h 20 min")])
def test_durations_are_said_as_one_would(seconds, said):
    assert duration(seconds) == said
