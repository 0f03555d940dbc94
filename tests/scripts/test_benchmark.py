"""scripts/benchmark.py: that it measures what it says; how fast that is is not judged here."""

import argparse
import json
import os
import subprocess
import sys
import warnings
from functools import partial
from itertools import pairwise

import pytest
import torch
from benchmarking import data, training
from benchmarking.data import Images, SyntheticSource, make_source
from benchmarking.parts import OurStep, update_codes
from benchmarking.plain_loops import CarefulLoop, MinimalLoop
from benchmarking.training import Clock
from benchmarking.waits import CountOnCUDA
from conftest import REPOSITORY
from programs import call
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from glo_lightning.generator import Generator
from glo_lightning.images import from_uint8
from glo_lightning.module import GLO
from glo_lightning.optimizers import RowSGD

SMALL = ("--rows=64", "--batch_size=8", "--batches=10", "--rounds=1", "--workers=1", "--width=4", "--latent_dim=6")
SMALL += ("--n_pca=64", "--table_rows=3000", "--encoded=0")
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path):
    """run("--flag", ...) -> what it wrote, and what it printed."""

    def run(*arguments):
        file = tmp_path / "result.json"
        with warnings.catch_warnings():
            status, printed, errors = call("benchmark", *arguments, "--json", file)
        assert status == 0, errors
        return json.loads(file.read_text()), printed

    return run


def test_it_writes_and_prints_what_it_measured(flat_lmdb, run):
    result, printed = run("--root", flat_lmdb, *SMALL, "--encoded=1", "--precision", "bf16-mixed", "32-true")
    assert [row["precision"] for row in result["training"]] == ["bf16-mixed", "32-true"]
    for row in result["training"]:
        assert row["ratio_minimal"] == pytest.approx(row["images_per_second"] / row["minimal_images_per_second"])
        assert row["ratio_careful"] == pytest.approx(row["images_per_second"] / row["careful_images_per_second"])
        assert row["images_per_second"] > row["images_per_second_with_epoch_ends"] > 0  # epochs are of eight batches
        assert f"{row['ratio_careful']:.2f}" in printed
    assert result["step"]["milliseconds"].keys() >= {"step", "careful_step", "minimal_step", "generator", "update"}
    (waits,) = result["waits"]
    assert waits["waits_a_step"] > waits["waits_a_step_between_logs"] == 0
    assert result["update"]["rows"] == 3000
    assert result["encoding"]["images_per_second"] == pytest.approx(1 / result["encoding"]["seconds"])
    assert result["environment"]["packages"]["torch"] in torch.__version__
    assert str(flat_lmdb) not in json.dumps(result)


def test_synthetic_images_need_neither_lmdb_nor_jsonargparse_nor_a_git_checkout(tmp_path):
    file = tmp_path / "result.json"
    program = "import runpy, sys; sys.modules['lmdb'] = sys.modules['jsonargparse'] = None; sys.argv = sys.argv[1:]; "
    program += "sys.path.insert(0, 'scripts'); runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", program, "scripts/benchmark.py", "--synthetic", *SMALL, "--batches=2", "--rows=16"]
    command += ["--json", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "GIT_DIR": str(tmp_path / "none")}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    result = json.loads(file.read_text())
    assert result["environment"]["commit"] is None
    assert result["training"][0]["images_per_second"] > 0
    assert result["environment"]["options"]["rows"] == 16


class CalledHere:
    """In place of a process of scripts/train.py."""

    def __init__(self, command, **_):
        self.returncode, _, self.errors = call("train", *command[2:])

    def communicate(self):
        torch.use_deterministic_algorithms(False)
        return "", "\n".join(self.errors)


def test_the_quickstart_is_timed_profiled_and_repeated_bit_for_bit(run, monkeypatch):
    processes = argparse.Namespace(Popen=CalledHere, DEVNULL=None, PIPE=None)
    monkeypatch.setattr("benchmarking.quickstart.subprocess", processes)
    tiny = ("--data.num_samples=160", "--data.batch_size=8", "--data.image_size=32", "--model.generator.width=4")
    result, _ = run("--quickstart", "--epochs=2", *tiny, "--model.latent_dim=6")
    first, second = result["epochs"]
    assert 0 < first["seconds"] < second["seconds"]
    assert second["loss"] < first["loss"]
    assert result["seconds_to_loss"] is None
    (steps,) = result["steps"].values()
    times = [row["cpu_ms_a_step"] for row in steps["profile"]]
    assert len(times) == 10
    assert all(one >= following > 0 for one, following in pairwise(times))
    assert steps["waits"]["waits_a_step"] > steps["waits"]["waits_a_step_between_logs"] == 0
    assert result["deterministic"] == {"runs": True, "same_bits": True, "steps": 10}


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--acelerator", "gpu"], "--acelerator: there is no such argument; did you mean --accelerator?"),
        (["--accelerator", "tpu"], "argument --accelerator: invalid choice"),
        (["--accelerator", "gpu"], "--accelerator gpu: no CUDA device that torch can use is here; give cpu"),
        (["--precision", "tf32"], "--precision tf32: is a GPU's; give bf16-mixed or 32-true"),
        (["--batches", "0"], "--batches 0: must be 1 or more"),
        (["--synthetic", "--rows", "100"], "--batch_size 128: 100 images cannot be shared"),
        (["--root", "nowhere"], "--root nowhere: does not exist"),
        (["--quickstart", "--data.batch_sise", "8"], "--data.batch_sise: there is no such argument"),
    ],
)
def test_a_wrong_flag_ends_in_one_line(flags, line, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with warnings.catch_warnings():
        status, _, (error,) = call("benchmark", *flags)
    assert status > 0
    assert error.startswith(line)


def as_plain(model):
    """The weights of a GLO's generator for the usual first layer, a transposed convolution."""
    first, *others = model.generator.state_dict().items()
    weight = first[1].view(4, 4, -1, first[1].shape[1]).permute(3, 2, 0, 1)
    return [weight, *(weight for _, weight in others)]


def test_all_loops_take_the_same_step_as_a_trained_glo():
    torch.manual_seed(0)
    pixels, rows = torch.randint(256, (12, 3, 64, 64), dtype=torch.uint8), torch.tensor([7, 2, 9, 4])
    images, model = from_uint8(pixels[rows]), GLO(12, 5, generator=partial(Generator, width=4), init="random")
    careful, minimal = CarefulLoop(pixels, 5, 4, low=False), MinimalLoop(12, 5, 4, CPU)
    alone = GLO(12, 5, generator=partial(Generator, width=4), init="random")
    alone.load_state_dict(model.state_dict())
    for generator in (careful.generator, minimal.generator):
        generator.load_state_dict(dict(zip(generator.state_dict(), as_plain(model), strict=True)))
    before = model.latents.weight.detach().clone()
    careful.codes, minimal.codes = before.clone(), before.double().numpy()

    trainer = Trainer(max_steps=1, accelerator="cpu", **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about workers
        trainer.fit(model, DataLoader([(images, rows)], batch_size=None))
    losses = [careful.step(rows).item(), minimal.step(images, rows), OurStep(alone, images, rows, low=False)().item()]

    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
    for weights in (careful.generator.state_dict().values(), minimal.generator.state_dict().values(), as_plain(alone)):
        for got, expected in zip(weights, as_plain(model), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    expected = model.latents.weight.detach()
    assert (expected - before).abs()[rows].amax(1).min() > 1e-4  # they moved
    for codes in (careful.codes, torch.from_numpy(minimal.codes).float(), alone.latents.weight.detach()):
        torch.testing.assert_close(codes, expected, atol=1e-5, rtol=1e-5)


def test_the_careful_loop_reads_its_loss_at_log_steps_alone_and_learns():
    torch.manual_seed(0)
    loop = CarefulLoop(SyntheticSource(32, 64).patterns, 6, 8, low=False, log_every=10)
    loop.run(loop.batches(8), 45)
    assert len(loop.losses) == 4
    assert loop.losses[-1] < loop.losses[0]


def test_the_timed_update_moves_the_batchs_rows_alone_by_a_sparse_gradient():
    torch.manual_seed(0)
    table = nn.Embedding(50, 4, sparse=True)
    before, rows, gradient = table.weight.detach().clone(), torch.tensor([3, 40, 11]), torch.randn(3, 4)
    update_codes(table, RowSGD(4), rows, gradient, lr=0.1)
    moved = before[rows] - 0.1 * 3 * gradient  # the rate is per image
    expected = before.clone()
    expected[rows] = moved / moved.norm(dim=1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(table.weight.detach(), expected)


def test_the_clock_counts_the_steps_after_the_warm_up_and_the_pauses_between_them(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    clock, model = Clock(warm=2, steps=7), argparse.Namespace(device=CPU)
    batch = (torch.zeros(3, 1), torch.zeros(3))
    step = 0
    for _ in range(4):  # epochs of four steps of a second, ten seconds apart
        clock.on_train_epoch_start(argparse.Namespace(), model)
        for number in range(4):
            now[0] += 1
            step += 1
            trainer = argparse.Namespace(global_step=step, is_last_batch=number == 3)
            clock.on_train_batch_end(trainer, model, None, batch, number)
        now[0] += 10
    assert (clock.images, clock.pauses, clock.seconds) == (7 * 3, 20, 7 + 20)


def test_a_wait_on_cuda_is_known_by_its_place(monkeypatch):
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with CountOnCUDA() as count:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("of another kind", stacklevel=1)
    assert modes == [0, "warn", 0]
    assert len(count.names) == 2
    assert all(name.startswith("test_benchmark.py:") for name in count.names)


def test_all_batches_have_one_size():
    source = make_source(None, 50, [8, 12], synthetic=True)
    assert len(source) == 48
    for batch_size in (8, 12):
        sizes = [len(batch) for batch in Images(source, batch_size).train_dataloader().sampler]
        assert sizes == [batch_size] * (48 // batch_size)


def test_synthetic_images_differ(monkeypatch):
    monkeypatch.setattr(data, "MOST_RECORDS", 9)
    source = SyntheticSource(9 * 4, 64)
    images = torch.stack([source.read(row) for row in range(len(source))])
    assert len(images.flatten(1).unique(dim=0)) == 9 * 4  # as many as there are pairs
