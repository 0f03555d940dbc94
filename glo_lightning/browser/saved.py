"""Codes that the page saves: ``codes/NAME.npy`` of the run folder, each with the digest of its run beside it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading

import torch
from torch import Tensor

from glo_lightning.browser.payloads import from_text
from glo_lightning.errors import InputError
from glo_lightning.explore.codes import load_codes, save_codes
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import disk_remedy

MAX_LISTED = 200
NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")


class SavedCodes:
    """Saves and lists codes in a run's ``codes_folder``."""

    def __init__(self, run: TrainedRun):
        self._run, self._saving = run, threading.Lock()

    def save(self, name: str, text: str) -> str:
        """Save a code, in base64, under a new name of letters, digits, ``-`` and ``_``; return the name.

        Without a name it gets one of its digest.
        """
        code = from_text(text, self._run.codes.shape[1])
        own = f"code-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        if name and not NAME.fullmatch(name):
            raise InputError("name", name, "has other characters. Give letters, digits, - and _, 60 at most.")
        path = self._run.codes_folder / f"{name or own}.npy"
        try:
            with self._saving:
                if path.exists() and name:
                    raise InputError("name", name, "is taken. Give another.")
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    save_codes(path, code[None], self._run.digest)
        except OSError as error:
            raise InputError("codes", path, f"cannot be written ({error.strerror}). {disk_remedy(error)}.") from error
        return path.stem

    def all(self) -> tuple[list[str], Tensor]:
        """List the newest 200 that are of this run, the newest first: their names and codes (n, D)."""
        names, codes = [], [self._run.codes[:0]]
        files = sorted(self._run.codes_folder.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[:MAX_LISTED]:
            with contextlib.suppress(InputError):  # of another run
                found = load_codes(self._run, file)
                if len(found) == 1 and NAME.fullmatch(file.stem):
                    names.append(file.stem)
                    codes.append(found)
        return names, torch.cat(codes)
