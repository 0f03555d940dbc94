"""Runs of several processes, with gloo on the CPU: whoever starts them, what they train, how they end.

Most are forked, with the launcher's variables, see forked.py.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY, encode, flat_image, load, same_state, write_lmdb
from forked import SCRIPT, SECONDS, Program, wait_for
from pytorch_lightning import Callback, Trainer
from torch import distributed

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.sampler import RowBatchSampler
from glo_lightning.generator import Generator
from glo_lightning.module import GLO

# -------------------------------------------------------------------------------------------- starting and ending them


def free_port() -> str:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return str(opened.getsockname()[1])


def by_torchrun(rank, size, port):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    numbers = dict(zip(names, map(str, (rank, rank, size, size)), strict=True))
    return {"TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | numbers


def by_srun(rank, size, port):
    names = ("PROCID", "LOCALID", "NTASKS", "NTASKS_PER_NODE", "NODEID", "NNODES", "JOB_ID", "JOB_NAME", "NODELIST")
    values = (rank, rank, size, size, 0, 1, 4242, "a_job", "127.0.0.1")
    return {f"SLURM_{name}": str(value) for name, value in zip(names, values, strict=True)} | {"MASTER_PORT": port}


def by_lightning(*_):
    """One process, which starts the others as programs, that import this file."""
    return {"PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests", Path(__file__).parent)))}


def by_hand_on_two_nodes(rank, size, port):
    """One process on each node, which Lightning's launcher has nobody to start for."""
    return {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


class Ranks(list):
    """The programs of one run, by rank."""

    def statuses(self) -> list[int]:
        deadline = time.monotonic() + SECONDS
        return [program.status(deadline - time.monotonic()) for program in self]

    def line(self, status: int) -> str:
        """Waits until all end with this status; returns the only line that they print, which is the first one's."""
        assert self.statuses() == [status] * len(self)
        (line,) = self[0].errors()
        assert not any(program.errors() for program in self[1:])
        return line


@pytest.fixture
def start(tmp_path):
    """start(size, *arguments) -> Ranks; of arguments that are functions, each takes the rank."""
    started = []

    def start(size, *arguments, by=by_torchrun, each=None, before=None):
        port = free_port()
        for rank in range(size):
            given = [argument(rank) if callable(argument) else argument for argument in arguments]
            variables = by(rank, size, port) | (each or {}).get(rank, {})
            started.append(Program(tmp_path / f"said_{rank}", *given, variables=variables, before=before))
        return Ranks(started[-size:])

    yield start
    for program in started:
        program.process.kill()


# ------------------------------------------------------------------------------------------ what happens in the process


class Fault(Callback):
    """Causes the fault HOW in process WHO before step AT, as these environment variables say."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        how, who, at = (os.environ.get(name, "") for name in ("HOW", "WHO", "AT"))
        if not (how and trainer.global_rank == int(who) and trainer.global_step == int(at)):
            return
        if how == "bug":
            raise ZeroDivisionError("a bug")
        if how == "disk":
            raise OSError(28, "No space left on device", "a_picture.png")
        os.kill(os.getpid(), getattr(signal, how))


class Rows(Callback):
    """Writes which rows each process has trained in each step."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with open(Path(trainer.default_root_dir).parent / f"rows_{trainer.global_rank}", "a") as file:
            file.write(json.dumps([trainer.global_step, batch[1].tolist()]) + "\n")


class Slow(Callback):
    """Steps of 20 ms, so that a run is still there when it is asked to stop."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(0.02)


COLLECTIVES = ("all_reduce", "all_gather", "broadcast", "barrier", "all_gather_object", "broadcast_object_list")


class Collectives(Callback):
    """Counts the messages of 20 steps in the middle of an epoch; DDP's own go another way."""

    def on_train_start(self, trainer, pl_module):
        self.count = Counter()
        for name in COLLECTIVES:
            setattr(distributed, name, self.counted(name, getattr(distributed, name)))

    def counted(self, name, real):
        def call(*arguments, **options):
            self.count[name] += 1
            return real(*arguments, **options)

        return call

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            self.count.clear()
        if batch_idx == 22:
            Path(trainer.default_root_dir).with_suffix(".json").write_text(json.dumps(self.count))


class NaNInSecond(torch.nn.L1Loss):
    """A loss that is not a number in the second process, in the fifth step."""

    calls = 0

    def forward(self, fakes, images):
        type(self).calls += torch.is_grad_enabled()  # GLO tries it once, without gradients
        bad = self.calls == 5 and distributed.get_rank() == 1
        return super().forward(fakes, images) * (float("nan") if bad else 1)


def callback(name: str) -> str:
    return f"--trainer.callbacks+=test_processes.{name}"


def spoil_third_checkpoint():
    """The first process cannot write its third checkpoint."""
    import glo_lightning.runs.checkpoints as checkpoints

    write_whole, calls = checkpoints.write_whole, []

    def failing(path, write, **options):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device", str(path))
        write_whole(path, write, **options)

    checkpoints.write_whole = failing


RUN = (*TINY, "--data.num_samples=50", "--data.batch_size=8", "--max_epochs=2", "--prior=null")
LONG = (*RUN, "--max_epochs=500", callback("Slow"))


# ----------------------------------------------------------------------------------------------------------- the steps


def gradients_by_hand(model, data, initial, parts):
    """Gradients of the generator for the mean loss, and of each row for its own image's loss, from parts of a batch."""
    images = sum(map(len, parts))
    weights, rows = [torch.zeros_like(weight) for weight in model.generator.parameters()], {}
    for part in parts:
        codes = initial[part].clone().requires_grad_()
        loss = model.loss(model.generator(codes), data.dataset[part][0].float() / 127.5 - 1)
        *of_weights, of_codes = torch.autograd.grad(loss, [*model.generator.parameters(), codes])
        for total, gradient in zip(weights, of_weights, strict=True):
            total += len(part) / images * gradient
        rows |= dict(zip(part, len(part) * of_codes, strict=True))
    return weights, rows


@pytest.mark.parametrize(("size", "rule"), [(3, "RowSGD"), (2, "WhitenedRows")])
def test_one_step_equals_that_of_the_parts_computed_by_hand(start, tmp_path, size, rule):
    """25 images: 13 and 12, or 9, 8 and 8. BatchNorm normalises each part by itself, and all weights move."""
    flags = ("--data.num_samples=25", "--data.batch_size=25", "--max_epochs=1", "--model.schedule=constant")
    flags += ("--model.optimizer.lr=0.5", "--model.latent_lr=0.3", "--model.optimizer.weight_decay=0")
    started = start(size, *RUN, *flags, f"--model.latent_optimizer={rule}", "--output", "run")
    assert started.statuses() == [0] * size
    trained = load(tmp_path / "run")
    initial, codes = trained["initial_codes"], trained["state_dict"]["latents.weight"]

    torch.manual_seed(0)  # the weights before the step are those that the seed makes
    before = GLO(25, **{k: v for k, v in trained["hyper_parameters"].items() if k in GLO_ARGUMENTS}).train()
    (batch,) = list(RowBatchSampler(25, 25, seed=0))
    data = LSUNDataModule(num_samples=25, image_size=32, batch_size=25)
    parts = [part.tolist() for part in np.array_split(batch, size)]
    weights, rows = gradients_by_hand(before, data, initial, parts)
    for (name, weight), gradient in zip(before.generator.named_parameters(), weights, strict=True):
        expected = weight - 0.5 * gradient
        torch.testing.assert_close(trained["state_dict"][f"generator.{name}"], expected.detach(), atol=1e-6, rtol=1e-5)
    gradient = torch.stack([rows[row] for row in range(25)]).double().numpy()
    if rule == "WhitenedRows":
        variances, axes = np.linalg.eigh(gradient.T @ gradient / 25)
        gradient = gradient @ (axes / np.sqrt(np.maximum(variances, 1e-4 * variances[-1])) @ axes.T) / 6**0.5
    moved = initial.double().numpy() - 0.3 * gradient
    moved /= np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1)
    assert np.abs(codes.numpy() - initial.numpy()).max() > 1e-3
    np.testing.assert_allclose(codes.numpy(), moved, atol=1e-4 if rule == "WhitenedRows" else 1e-5)


GLO_ARGUMENTS = ("latent_dim", "image_size", "generator", "loss", "whiten", "init")


class WithoutBatchNorm(Generator):
    """An image does not depend on the others of its batch, so it does not matter which process has it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for number, layer in enumerate(self.layers):
            if isinstance(layer, torch.nn.BatchNorm2d):
                self.layers[number] = torch.nn.GroupNorm(1, layer.num_features)


def test_without_batchnorm_one_and_three_processes_make_the_same_run(start, tmp_path):
    flags = ("--data.num_samples=53", "--model.generator=test_processes.WithoutBatchNorm")
    flags += ("--accumulate_grad_batches=2", "--model.latent_lr=0.6", "--precision=64-true")
    for size in (1, 3):
        assert start(size, *RUN, *flags, f"--output=by_{size}").statuses() == [0] * size
    alone, shared = load(tmp_path / "by_1"), load(tmp_path / "by_3")
    assert (alone["state_dict"]["latents.weight"] - alone["initial_codes"]).norm(dim=1).min() > 0.01
    assert shared["epoch_loss"] == pytest.approx(alone["epoch_loss"], rel=1e-5)
    torch.testing.assert_close(shared["state_dict"], alone["state_dict"], atol=1e-8, rtol=1e-8)


def test_a_run_continues_with_one_process_and_then_with_two_each_image_once(start, tmp_path):
    flags = ("--data.num_samples=83", "--checkpoint.every_n_steps=1", callback("Rows"), callback("Fault"))
    for size, at, arguments in ((3, 3, (*RUN, *flags, "--output")), (1, 6, ("--resume",)), (2, 99, ("--resume",))):
        each = {rank: {"HOW": "SIGKILL", "WHO": str(size // 2), "AT": str(at)} for rank in range(size)}
        statuses = start(size, *arguments, "run", each=each).statuses()
        assert all(statuses) if at < 99 else not any(statuses), statuses
        assert at == 99 or load(tmp_path / "run")["global_step"] == at
    lines = [line for file in tmp_path.glob("rows_*") for line in file.read_text().splitlines()]
    epochs = {1: [], 2: []}
    for step, rows in map(json.loads, lines):
        epochs[1 if step <= 11 else 2] += rows
    assert sorted(epochs[1]) == sorted(epochs[2]) == list(range(83))
    assert load(tmp_path / "run")["epoch_loss"][1] == 83


# ------------------------------------------------------------------------------------------------------------ the start


def test_whoever_starts_two_processes_they_make_the_same_run_in_one_folder(start, tmp_path):
    for by, flags in ((by_torchrun, ()), (by_srun, ()), (by_hand_on_two_nodes, ("--num_nodes=2",))):
        assert start(2, *RUN, "--max_epochs=1", *flags, by=by).statuses() == [0, 0], by
    runs = tmp_path / "runs" / "quickstart"
    first, *others = sorted(runs.iterdir())
    assert [path.name for path in (first, *others)] == ["version_0", "version_1", "version_2"]
    assert all(same_state(first, other) for other in others)
    said = [(tmp_path / f"said_{rank}.1").read_text().count("PSNR of 50 training images") for rank in range(2)]
    assert said == [1, 0]


def test_two_messages_a_step_besides_ddps_own(start, tmp_path):
    flags = ("--data.num_samples=200", "--max_epochs=1", "--log_every_n_steps=25", callback("Collectives"))
    assert start(2, *RUN, *flags, "--output", "run").statuses() == [0, 0]
    count = json.loads((tmp_path / "run.json").read_text())
    assert count.pop("all_gather") == 2 * 20  # rows and gradients of the codes
    assert count.keys() <= {"all_reduce"}  # whether there was a signal: seldom where steps are short
    assert count.get("all_reduce", 0) <= 8


def fit_in_python():
    """As in the README, by a plain Trainer; neither process has a seed."""
    torch.manual_seed(os.getpid())
    data = LSUNDataModule(num_samples=50, batch_size=8, image_size=32)
    model = GLO(data.num_images, latent_dim=6, image_size=32, generator=partial(Generator, width=4), init="random")
    seen = []

    class See(Callback):
        def on_train_start(self, trainer, pl_module):
            self.initial = pl_module.latents.weight.detach().clone()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.extend(batch[1].tolist())

    see = See()
    options = {"accelerator": "cpu", "devices": 2, "logger": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, callbacks=[see], **options)
    trainer.fit(model, data)  # writes a checkpoint
    predicted = sum(map(len, trainer.predict(model, data)))
    torch.save((seen, predicted, see.initial, model.latents.weight.detach()), f"seen_{trainer.global_rank}.pt")
    raise SystemExit  # before the command line


@pytest.mark.filterwarnings("default")
def test_a_plain_trainer_trains_each_image_once_from_the_same_codes(start, tmp_path):
    started = start(2, before=fit_in_python)
    assert started.statuses() == [0, 0], started[0].errors()
    (first, predicted, *codes), (second, more, *others) = (
        torch.load(tmp_path / f"seen_{rank}.pt") for rank in range(2)
    )
    assert sorted(first + second) == list(range(50))
    assert predicted + more == 50
    assert all(torch.equal(*pair) for pair in zip(codes, others, strict=True))
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


# -------------------------------------------------------------------------------------------------------------- the end


def test_a_bad_loss_in_one_process_ends_all_with_one_line(start, tmp_path):
    flags = ("--model.loss=test_processes.NaNInSecond", "--log_every_n_steps=6")
    line = start(2, *RUN, *flags, "--output", "run").line(1)
    assert line.startswith("loss nan in step 4 (")  # which is bad in the first only a step later
    rows = list(RowBatchSampler(50, 8, seed=0, rank=1, world_size=2))[4]
    keys = [LSUNDataModule(num_samples=50).source.key(row).decode() for row in rows]
    assert line.split(" keys ")[1].split(")")[0].split() == keys


def test_a_checkpoint_that_cannot_be_written_ends_all_with_one_line(start, tmp_path):
    line = start(2, *RUN, "--checkpoint.every_n_steps=2", "--output", "run", before=spoil_third_checkpoint).line(1)
    assert "No space left" in line
    assert "--resume" in line
    assert load(tmp_path / "run")["global_step"] == 4


RECORDS = {b"%04x" % row: encode(flat_image(row)) for row in range(50)}


@pytest.mark.parametrize("who", [0, 1])
def test_images_that_cannot_be_read_end_all_with_one_line_and_no_folder(start, tmp_path, who):
    roots = [write_lmdb(tmp_path / "good", RECORDS), write_lmdb(tmp_path / "bad", RECORDS | {b"%04x" % 30: b"hello"})]
    line = start(2, *RUN, "--data.root", lambda rank: roots[rank == who], "--output", f"run_{who}").line(2)
    assert line.startswith("key 001e ")
    assert not (tmp_path / f"run_{who}").exists()


FAULTS = [("bug", 0, "ZeroDivisionError: a bug"), ("disk", 1, "a_picture.png: No space"), ("SIGKILL", 0, "")]


@pytest.mark.parametrize(("how", "who", "line"), FAULTS)
def test_any_other_fault_of_one_process_ends_all(start, tmp_path, how, who, line):
    each = {rank: {"HOW": how, "WHO": str(who), "AT": "4"} for rank in range(2)}
    started = start(2, *RUN, callback("Fault"), "--output", "run", each=each)
    statuses = started.statuses()
    assert statuses[who] == (-9 if how == "SIGKILL" else 1)
    assert statuses[1 - who] == 1
    assert line in "".join(started[who].errors()[-1:])
    lost = "Lost contact with another process. Its own output or its launcher's says why."
    assert started[1 - who].errors() == [f"process {1 - who}: {lost}"]


@pytest.mark.parametrize(("number", "status", "who"), [("SIGTERM", 143, 0), ("SIGINT", 130, 1)])
def test_a_signal_to_one_process_ends_all_with_its_status_and_a_checkpoint(start, tmp_path, number, status, who):
    each = {rank: {"HOW": number, "WHO": str(who), "AT": "9"} for rank in range(2)}
    line = start(2, *LONG, callback("Fault"), "--output", "run", each=each).line(status)
    step = load(tmp_path / "run")["global_step"]
    assert line.startswith(f"Stopped after step {step}. ")
    assert 9 < step < 9 + 75  # about a second later


def test_a_signal_before_the_first_step_leaves_no_folder(start, tmp_path):
    each = {rank: {"XDG_CACHE_HOME": str(tmp_path / "cache")} for rank in range(2)}
    started = start(2, *RUN, "--data.num_samples=4096", "--data.image_size=64", each=each)
    wait_for(lambda: list(tmp_path.glob("runs/*/*")))
    for program in started:
        os.kill(program.pid, signal.SIGTERM)
    first, other = started.statuses()
    assert first == 143
    assert other != 0  # by the signal, or since the first is gone
    assert not list(tmp_path.glob("runs/*/*"))


# ------------------------------------------------------------------------------------------------- by real launchers


@pytest.fixture
def launch(tmp_path):
    """launch("command") -> the shell's process, with a process group of its own, which ends with the test."""
    started = []

    def launch(command):
        environment = os.environ | by_lightning() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(["bash", "-c", command], cwd=tmp_path, env=environment, **options))
        return started[-1]

    yield launch
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=SECONDS)


def group_is_gone(process):
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def children_of(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


LAUNCHER = shlex.join(map(str, [sys.executable, SCRIPT, *LONG, "--devices=2", "--output=run"]))


def test_lightnings_launcher_exits_with_the_signals_status_and_makes_the_same_run(start, tmp_path):
    """The second process is a program. Then the run is resumed, and repeated, as torchrun starts processes."""
    flags = (*LONG, "--model.schedule=constant")
    (program,) = start(1, *flags, "--devices=2", "--output=run", by=by_lightning)
    wait_for((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    os.killpg(program.pid, signal.SIGTERM)
    assert program.status() == 143
    (line,) = program.errors()
    stopped = load(tmp_path / "run")
    assert line.startswith(f"Stopped after step {stopped['global_step']}. Continue with --resume")
    assert group_is_gone(program)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "said_0.1", "said_0.2"}
    for arguments in (("--resume=run",), (*flags, "--output=whole")):
        assert start(2, *arguments, f"--max_epochs={stopped['epoch'] + 2}").statuses() == [0, 0]
    assert same_state(tmp_path / "run", tmp_path / "whole")


def test_a_port_that_is_taken_is_named_and_no_process_is_left(start, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        flags = (*RUN, "--devices=2", "--output=run")
        variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        (program,) = started = start(1, *flags, by=by_lightning, each={0: variables})
        assert started.line(1).startswith(f"MASTER_PORT {port}: ")
        wait_for(lambda: group_is_gone(program), 5)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [True, False])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)])
def test_lightnings_launcher_always_exits_with_the_signals_status(launch, tmp_path, number, status, to_all):
    process = launch(f"exec {LAUNCHER}")
    wait_for((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    (os.killpg if to_all else os.kill)(process.pid, number)
    assert process.wait(SECONDS) == status
    assert group_is_gone(process)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 3, 5, 7, 9])
def test_lightnings_launcher_leaves_no_folder_before_the_first_step(launch, tmp_path, seconds):
    process = launch(LAUNCHER.replace("--output=run", f"{callback('LateStart')}"))
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(SECONDS) in (143, -15)  # of the shell, which has the signal too
    wait_for(lambda: group_is_gone(process), 10)
    assert not list(tmp_path.glob("runs/*/*"))


class LateStart(Callback):
    """A minute before the first step."""

    def on_fit_start(self, trainer, pl_module):
        time.sleep(60)


TORCHRUN = shlex.join(map(str, ["torchrun", "--nproc-per-node=2", SCRIPT, *LONG, "--output=run"])).replace(
    "--nproc", "--master-port=$PORT --nproc"
)


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize(
    "command", [LAUNCHER.replace("--devices=2", "--devices=3"), TORCHRUN], ids=["ours", "torchrun"]
)
def test_a_kill_of_any_process_of_a_launcher_ends_all(launch, tmp_path, command, who):
    """The first process, or torchrun itself, and each of those that it started."""
    process = launch(f"PORT={free_port()}; exec {command}")
    wait_for((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    victims = [process.pid, *map(int, children_of(process))]
    assert len(victims) == 3
    os.kill(victims[who], signal.SIGKILL)
    process.communicate(timeout=40)  # returns when the last process that could write there has ended
    assert process.returncode != 0


def test_the_batch_script_for_torchrun_requeues_a_run_that_was_stopped_by_its_signal(launch, tmp_path):
    (script,) = (block for block in DOCUMENTED if "torchrun --nproc-per-node 2" in block)
    command = shlex.join(map(str, [SCRIPT, *LONG]))
    for old, new in (
        ("scripts/train.py", f"--master-port={free_port()} {command}"),
        ("scontrol requeue", "echo requeued"),
    ):
        assert old in script
        script = script.replace(old, new)
    last = tmp_path / "runs" / "long" / "checkpoints" / "last.ckpt"
    process = launch(script)
    wait_for(last.exists)
    os.kill(process.pid, signal.SIGUSR1)
    stdout = process.communicate(timeout=SECONDS)[0]  # ends when the last process that writes there does
    assert stdout.strip().splitlines()[-1] == "requeued"
    wait_for(lambda: group_is_gone(process), 5)  # a process closes its output a little before its end
    assert load(last.parents[1])["global_step"] > 0
    failing = launch(script.replace("torchrun ", "false "))
    assert failing.communicate(timeout=SECONDS)[0].strip() == ""  # nobody asked: a failure is not requeued


PAGE = REPOSITORY / "glo_lightning" / "training" / "README.md"
DOCUMENTED = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)


# -------------------------------------------------------------------------------------------------------------- errors


BAD = [
    ("--devices=2 --strategy=fsdp", {}, "--strategy fsdp: ", "ddp"),
    ("--devices=2 --strategy=deepspeed_stage_2", {}, "--strategy deepspeed_stage_2: ", "ddp"),
    ("--devices=2 --strategy=ddp_spawn", {}, "--strategy ddp_spawn: ", "Give ddp"),
    ("--devices=2 --precision=16-mixed", {}, "--precision 16-mixed: ", "bf16-mixed"),
    ("--devices=2 --sync_batchnorm=true", {}, "--sync_batchnorm True: ", "CPU"),
    ("--devices=3", by_torchrun(0, 2, "1"), "--devices 3: torchrun started 2 on each of 1 nodes", "--devices"),
    ("--num_nodes=2", by_torchrun(0, 2, "1"), "--num_nodes 2: torchrun started 2 on each of 1 nodes", "--num_nodes"),
    ("--devices=1", by_srun(0, 2, "1"), "--devices 1: srun started 2 on each of 1 nodes", "--devices"),
    ("", {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "a"}, "SLURM_NTASKS 2: ", "--ntasks-per-node"),
]


@pytest.mark.parametrize(("arguments", "variables", "first", "further"), BAD, ids=[f"{bad[0]} {bad[2]}" for bad in BAD])
@pytest.mark.filterwarnings("ignore:.*fp16 is not supported on.*")
def test_what_several_processes_cannot_do_ends_in_one_line(
    run, tmp_path, monkeypatch, arguments, variables, first, further
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, line = run(*RUN, *arguments.split())
    assert status == 2
    assert line.startswith(first)
    assert further in line
    assert not list(tmp_path.iterdir())


NOT_SHARED = [
    ("--data.num_samples=5 --data.batch_size=4 --model.latent_dim=2", "--data.batch_size 4: makes batches of 2"),
    (
        "--data.cache=false --data.on_invalid_image=skip",
        "--data.on_invalid_image skip: cannot be used in several processes",
    ),
]


@pytest.mark.parametrize(("flags", "first"), NOT_SHARED, ids=["more processes than images", "unknown parts"])
def test_batches_that_cannot_be_shared_out_end_in_one_line(start, tmp_path, flags, first):
    assert start(3, *RUN, *flags.split(), "--output", "run").line(2).startswith(first)
    assert not (tmp_path / "run").exists()


def test_lightnings_own_checks_are_a_line_of_each_process_and_leave_nothing(start, tmp_path):
    """And output that is no terminal gets lines of the first one alone."""
    flags = [flag for flag in RUN if "progress" not in flag]
    ranks = start(2, *flags, "--callbacks+=EarlyStopping", "--callbacks.monitor=x", "--output", tmp_path / "run")
    assert ranks.statuses() == [2, 2]
    for program in ranks:
        assert all("trainer arguments: Early stopping conditioned on metric `x`" in line for line in program.errors())
    assert not (tmp_path / "run").exists()


def test_other_images_on_another_node_end_in_one_line(start, tmp_path):
    others = {b"other" + key: record for key, record in RECORDS.items()}
    roots = [write_lmdb(tmp_path / "one", RECORDS), write_lmdb(tmp_path / "two", others)]
    line = start(2, *RUN, "--data.root", lambda rank: roots[rank], "--output", "run").line(2)
    assert line.startswith(f"--data.root {roots[1]}: process 1 has other images")
    assert not (tmp_path / "run").exists()
