"""t-SNE, also as a program, which can be stopped: python -m glo_lightning.browser.tsne CODES.npy PLACES.npy"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from glo_lightning.progress import Progress

ITERATIONS = 1000  # scikit-learn's default; it prints each fiftieth
FEW = 500  # codes, which take a few seconds and no process of their own


def find_places(codes: np.ndarray) -> np.ndarray:
    """Compute places (n, 2) of codes (n, D); of many in another process, with a bar.

    Raises:
        StoppedError: see ``progress.watcher``.
    """
    if len(codes) < 5:
        return codes[:, :2] if codes.shape[1] > 1 else np.repeat(codes, 2, axis=1)
    if len(codes) < FEW:
        return _tsne(codes)
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "codes.npy", Path(name) / "places.npy"]
        np.save(files[0], codes)
        program = [sys.executable, "-u", "-m", __name__, *map(str, files)]
        with (
            Progress(total=ITERATIONS, desc="computing t-SNE", unit=" iterations", leave=False) as bar,
            subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if match := re.search(r"Iteration (\d+)", line):
                        bar.update(int(match[1]) - bar.n)
            finally:
                process.kill()
        return np.load(files[1])


def _tsne(codes: np.ndarray, verbose: int = 0) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():  # the other cores decode
        warnings.simplefilter("ignore", RuntimeWarning)
        model = TSNE(perplexity=min(30, (len(codes) - 1) / 3), init="pca", random_state=0, verbose=verbose)
        return model.fit_transform(codes)


if __name__ == "__main__":
    np.save(sys.argv[2], _tsne(np.load(sys.argv[1]), verbose=2))
