"""Hundreds of damaged files of each kind that a run reads: what is read is right, or one line says what is wrong."""

import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import equal

from glo_lightning.errors import InputError
from glo_lightning.explore.codes import load_codes, save_codes
from glo_lightning.explore.encoder import encoder_file, fit_and_save_encoder, load_encoder
from glo_lightning.explore.export import export_run
from glo_lightning.explore.exported import load_export
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.module import GLO
from glo_lightning.priors.fitting import fit_prior
from glo_lightning.priors.flow import Flow
from glo_lightning.runs.checkpoints import read_checkpoint, read_newest
from glo_lightning.runs.folder import RunFolder

pytest.importorskip("safetensors.torch")
# numbers that a damaged array holds may be too large for the type that it is converted to
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

OTHERS = [b"", b"null", b"[]", b"{}", b"3", b"text", b"\xff\xfe\x00", b"[" * 100_000, b'{"data": []}', b"PK\x03\x04"]


def variants(content: bytes, times: int) -> Iterator[bytes]:
    """Other content, and the same with a bit flipped, bytes overwritten, the end cut off, or a part doubled."""
    random = np.random.default_rng(0)
    yield from OTHERS
    for number in range(times - len(OTHERS)):
        changed = bytearray(content)
        place = int(random.integers(len(changed)))
        if number % 4 == 0:
            changed[place] ^= 1 << int(random.integers(8))
        elif number % 4 == 1:
            for other in random.integers(len(changed), size=int(random.integers(1, 12))):
                changed[other] = int(random.integers(256))
        elif number % 4 == 2:
            del changed[place:]
        else:
            changed[place:place] = changed[place : place + 100]
        yield bytes(changed)


@pytest.fixture(scope="module")
def folder(faces_run, tmp_path_factory):
    """A run with an encoder, a flow, an export and saved codes."""
    folder = tmp_path_factory.mktemp("damaged")
    run = TrainedRun(shutil.copytree(faces_run, folder / "run"), "cpu")
    fit_and_save_encoder(run)
    export_run(folder / "run", folder / "export")
    save_codes(folder / "codes.npy", run.codes[:5], run.digest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glo_lightning.priors.flow.MIN_CODES", 50)
        fit_prior(small_flow(), run.codes, run.attributes, folder / "run")
    return folder


def small_flow() -> Flow:
    return Flow(steps=5, width=8, blocks=1)


@pytest.fixture(scope="module")
def loaded(folder):
    return TrainedRun(folder / "run", "cpu")


class FittedAgain(InputError):
    """What the reader of a flow does when it cannot read it."""

    def __init__(self):
        super().__init__("flow", "", "is fitted again")


def read_flow(folder, run):
    flow = fit_prior(small_flow(), run.codes, run.attributes, folder / "run")
    return flow.state()


def read_data(folder, run):
    for name in ("config", "data"):
        vars(run).pop(name, None)
    return run.data.num_images


def read_encoder(folder, run):
    encoder = load_encoder(run)
    if encoder is None:
        raise InputError("encoder", encoder_file(run), "was fitted to another checkpoint")  # a warning says so
    return encoder.state_dict()


def read_export(folder, run):
    model, keys, _ = load_export(folder / "export", GLO)
    return {"keys": keys, **model.state_dict()}


READERS: dict[str, Callable] = {
    "run/checkpoints/last.ckpt": lambda folder, run: read_checkpoint(run.checkpoint, "run"),
    "run/config.yaml": read_data,
    "run/environment.json": lambda folder, run: RunFolder(folder / "run").read_starts(),
    "run/encoder.safetensors": read_encoder,
    "run/priors/flow-*": read_flow,
    "export/generator.safetensors": read_export,
    "export/codes.safetensors": read_export,
    "export/config.json": read_export,
    "codes.npy": lambda folder, run: load_codes(run, folder / "codes.npy"),
    "codes.npy.json": lambda folder, run: load_codes(run, folder / "codes.npy"),
}
WITHOUT_CHECKSUM = ("run/config.yaml", "run/environment.json")  # text that a user may edit


def check(name, folder, run, monkeypatch, times) -> int:
    """Damages the file in many ways; returns how often it was refused."""
    (file,) = folder.glob(name)
    content, lines = file.read_bytes(), []
    whole = READERS[name](folder, run)

    def fit_again(self, *_):
        raise FittedAgain

    monkeypatch.setattr(Flow, "fit", fit_again)
    try:
        for damaged in variants(content, times):
            file.write_bytes(damaged)
            try:
                read = READERS[name](folder, run)
            except InputError as error:
                lines.append(str(error))
            else:
                assert name in WITHOUT_CHECKSUM or equal(read, whole), "read as something else"
            if name == "run/checkpoints/last.ckpt":
                path, checkpoint = read_newest(RunFolder(folder / "run"), "resume")
                assert path.name == "previous.ckpt" or equal(checkpoint["state_dict"], whole["state_dict"])
    finally:
        file.write_bytes(content)
        (folder / "run" / "environment.damaged.json").unlink(missing_ok=True)
    assert not [line for line in lines if "\n" in line]
    return len(lines)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_right_or_refused_in_one_line(folder, loaded, monkeypatch, name):
    refused = check(name, folder, loaded, monkeypatch, 200)
    assert refused >= (30 if name not in WITHOUT_CHECKSUM else 0)


@pytest.mark.parametrize("times", [16, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_run_with_a_damaged_configuration_resumes_or_says_in_one_line_why_not(run, folder, tmp_path, times):
    resumed = shutil.copytree(folder / "run", tmp_path / "resumed")
    for damaged in variants((folder / "run" / "config.yaml").read_bytes(), times):
        (resumed / "config.yaml").write_bytes(damaged)
        assert run("--resume", resumed, "--max_epochs=3", "--prior=null")[0] in (0, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_thousands_of_damaged_files(folder, loaded, monkeypatch, name):
    assert check(name, folder, loaded, monkeypatch, 5000) >= (0 if name in WITHOUT_CHECKSUM else 2500)
