"""``glo`` and ``python -m glo_lightning``: the commands by their names."""

import os
import subprocess
import sys
from typing import get_args

import pytest
from conftest import REPOSITORY

from glo_lightning import encoding
from glo_lightning.__main__ import main
from glo_lightning.commands import flags
from glo_lightning.commands.flags import NAMES
from glo_lightning.devices import Accelerator
from glo_lightning.explore.paths import INTERPOLATIONS
from glo_lightning.priors.prior import PRIORS


def test_every_command_has_its_script():
    assert {*NAMES} <= {path.stem for path in (REPOSITORY / "scripts").glob("*.py")}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["walk", "--help"], 0, "Walks along the principal axes"),
        (["--help"], 0, "interpolate"),
        ([], 0, "interpolate"),
        (["interpolat", "RUN"], 2, "interpolat: there is no such command; did you mean interpolate?"),
        (["walk", "no_run", "--no_such_flag"], 2, "--no_such_flag: there is no such argument; see --help"),
    ],
)
def test_a_command_is_run_by_its_name(words, status, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["glo", *words])
    ended = 0
    try:
        main()
    except SystemExit as stop:
        ended = int(stop.code or 0)
    printed = capsys.readouterr()
    assert ended == status
    assert said in (printed.err if status else printed.out)


WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(["torch", "numpy", "PIL", "lightning_fabric", "jsonargparse"]))
from glo_lightning.__main__ import main
from glo_lightning.commands.flags import NAMES
for name in NAMES:
    for flag in ("--help", "--acceleratr"):
        sys.argv = ["glo", name, "RUN", flag]
        try:
            main()
        except SystemExit as stop:
            print(name, flag, stop.code, flush=True)
"""


def test_help_and_a_typo_are_answered_without_torch():
    told = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert told.stdout.count("--help 0") == told.stdout.count("--acceleratr 2") == len(NAMES), told
    on_runs = len(set(NAMES) - {"build_lmdb", "export", "sweep", "train"})
    assert told.stderr.count("--acceleratr: there is no such argument; did you mean --accelerator?") == on_runs


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("glo samp", {"sample"}),
        ("glo sample", {"sample"}),
        ("glo sample RUN --te", {"--temperature", "--tensorboard"}),
        ("glo walk RUN --path ", {"flow", "line"}),
        ("glo train --data.hold", {"--data.holdout", "--data.holdout_split"}),
    ],
)
def test_a_shell_completes_commands_and_flags(line, offered, tmp_path):
    pytest.importorskip("argcomplete", reason="pip install -e '.[completion]'")
    answer = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": " "}
    answer |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered")}
    subprocess.run([sys.executable, "-m", "glo_lightning"], env={**os.environ, **answer}, check=True)
    assert set((tmp_path / "offered").read_text().split()) == offered


def test_the_flags_offer_what_there_is():
    assert sorted(flags.STARTS) == sorted(encoding.STARTS)
    assert list(PRIORS) == flags.PRIORS
    assert sorted(flags.PATHS) == sorted(["flow", *INTERPOLATIONS])
    (accelerator,) = (action for action in flags.sample()._actions if action.dest == "accelerator")
    assert tuple(accelerator.choices) == get_args(Accelerator)
