"""Runs a study's program in this process."""

import warnings

from conftest import REPOSITORY
from programs import call

STUDIES = REPOSITORY / "scripts" / "studies"


def run_study(program: str, *arguments: object) -> str:
    """Call ``scripts/studies/<program>.py`` with these arguments; return the lines that it prints, without bars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's about workers, and torch 2.15's about TorchScript
        status, printed, errors = call(f"studies/{program}", *arguments)
    assert status == 0, errors
    return "\n".join(line for line in printed.splitlines() if line and "%|" not in line)
