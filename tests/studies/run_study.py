"""Runs a study's program in this process."""

import io
import runpy
import sys
import warnings
from contextlib import redirect_stdout

import pytest
from conftest import REPOSITORY

STUDIES = REPOSITORY / "scripts" / "studies"


def run_study(program: str, *arguments: object) -> str:
    """Call ``scripts/studies/<program>.py`` with these arguments; return the lines that it prints, without bars."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's about workers, and torch 2.15's about TorchScript
        patch.setattr(sys, "argv", [f"{program}.py", *map(str, arguments)])
        runpy.run_path(str(STUDIES / f"{program}.py"), run_name="__main__")
    return "\n".join(line for line in printed.getvalue().splitlines() if line and "%|" not in line)
