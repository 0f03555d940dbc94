import contextlib
import os

from conftest import TINY, load
from forked import Program

from glo_lightning.streams import streams_may_close


def closed_pipe() -> int:
    """A pipe that nobody reads, to write to."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_what_nobody_reads_is_dropped(capsys):
    with os.fdopen(closed_pipe(), "w") as stream, contextlib.redirect_stdout(stream), streams_may_close():
        for _ in range(3):
            print("x" * 10_000, flush=True)
    assert capsys.readouterr() == ("", "")


def close_stdout() -> None:
    os.dup2(closed_pipe(), 1)


def test_a_run_whose_output_nobody_reads_trains_to_its_end(tmp_path):
    flags = (*TINY, "--enable_progress_bar=true", "--max_epochs=2", "--prior=gaussian")
    program = Program(tmp_path / "said", *flags, "--output=run", before=close_stdout)
    assert program.status() == 0
    assert load(tmp_path / "run")["epoch"] == 1
    assert program.errors() == []
