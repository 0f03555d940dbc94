"""A run folder that somebody sent: nothing that it names is run, and no other images are taken for its own."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, encode, flat_image, train
from programs import call

from glo_lightning.module import PARTS

LAMBDA = "pytorch_lightning.callbacks.LambdaCallback"
DDP = "pytorch_lightning.strategies.DDPStrategy"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch on 24 images in an array."""
    folder = tmp_path_factory.mktemp("stranger")
    np.save(folder / "images.npy", np.stack([flat_image(10 * row) for row in range(24)]))
    train(folder / "run", "--max_epochs=1", "--prior=null", "--data.root", folder / "images.npy")
    return folder


@pytest.fixture
def stranger(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "sent")
    return tmp_path / "sent"


def touch(path):
    """What would make a file if it were made."""
    return {"class_path": "subprocess.Popen", "init_args": {"args": f"touch {path}", "shell": True}}


def changed(folder, key, value):
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    *sections, last = key.split(".")
    part = config
    for section in sections:
        part = part[section]
    part[last] = value
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))


class Anything(torch.nn.L1Loss):
    """A loss with arguments in which anything may stand."""

    def __init__(self, x: Any = None, module: torch.nn.Module | None = None):
        super().__init__()


PLACES = [
    ("data.source", lambda path: {"class_path": "folder", "init_args": {"x": touch(path)}}),
    ("data.source", touch),
    ("model.loss", lambda path: {"class_path": "test_strangers_run.Anything", "init_args": {"x": [touch(path)]}}),
    ("model.loss", lambda path: {"class_path": "test_strangers_run.Anything", "init_args": {"module": touch(path)}}),
    ("model.optimizer", lambda path: {"class_path": "SGD", "init_args": {"lr": touch(path)}}),
    *((f"model.{part}", touch) for part in PARTS),
    *((f"model.{part}", lambda path: "subprocess.Popen") for part in PARTS),
    ("trainer.callbacks", lambda path: [touch(path)]),
    ("trainer.callbacks", lambda path: [{"class_path": LAMBDA, "init_args": {"on_fit_start": "os.abort"}}]),
    ("trainer.strategy", lambda path: {"class_path": DDP, "init_args": {"ddp_comm_state": touch(path)}}),
    ("trainer.strategy", lambda path: {"class_path": DDP, "init_args": {"ddp_comm_hook": "os.abort"}}),
    ("trainer.logger", touch),
    ("trainer.profiler", touch),
    ("trainer.plugins", lambda path: [touch(path)]),
    ("prior", lambda path: "subprocess.Popen"),
]


@pytest.mark.parametrize(("key", "value"), PLACES, ids=[f"{number}-{key}" for number, (key, _) in enumerate(PLACES)])
def test_what_a_configuration_names_is_not_run(run, stranger, tmp_path, key, value):
    changed(stranger, key, value(tmp_path / "ran"))
    before = (stranger / "run" / "checkpoints" / "last.ckpt").read_bytes()
    for arguments in (
        ["--resume", stranger / "run"],
        ["--config", stranger / "run" / "config.yaml", "--output", "new"],
    ):
        status, line = run(*arguments, "--max_epochs=2")
        assert (status, line.startswith(f"--{key}")) == (2, True), line
    assert not (tmp_path / "ran").exists()
    assert (stranger / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_a_word_of_another_flag_names_nothing(run, stranger, tmp_path):
    changed(stranger, "trainer.callbacks", [touch(tmp_path / "ran")])
    (stranger / "run").rename(stranger / "subprocess.Popen")
    flags = (["--resume=subprocess.Popen"], ["--resume", stranger / "subprocess.Popen", "--prior=Popen"])
    for arguments in flags:
        assert run(*arguments, "--max_epochs=2")[0] == 2
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("root", ["a file", "x; touch ran"])
@pytest.mark.parametrize("command", ["sample", "evaluate", "encode", "export"])
def test_a_source_that_is_none_is_not_made(stranger, tmp_path, monkeypatch, root, command):
    changed(stranger, "data.source", {"class_path": "subprocess.Popen", "init_args": {"shell": True}})
    changed(stranger, "data.root", root)
    arguments = {"sample": ["--prior=gaussian", "--num=2"], "encode": [stranger], "export": [tmp_path / "exported"]}
    monkeypatch.chdir(tmp_path)
    _, output, errors = call(command, stranger / "run", *arguments.get(command, []))  # any error but one is raised
    output += "".join(errors)
    assert "subprocess.Popen: has no __len__" in output or "images" in output
    assert not (tmp_path / "ran").exists()


def test_a_function_or_class_that_the_user_names_is_made(run, stranger, tmp_path):
    """The same, on the command line: what the user types is the user's."""
    callback = '[{"class_path": "LambdaCallback", "init_args": {"on_fit_start": "conftest.rows_of"}}]'
    with pytest.raises(TypeError, match="rows_of"):
        run("--resume", stranger / "run", "--max_epochs=2", f"--trainer.callbacks={callback}")


def test_a_callback_in_a_recipe_of_ones_own_is_made(run, trained, tmp_path):
    (tmp_path / "mine.yaml").write_text("trainer: {callbacks: [{class_path: test_ten_changes.Montage}]}")
    flags = (*TINY, "--max_epochs=1", "--data.root", trained / "images.npy", "--model.init=random", "--prior=null")
    assert run("--config", tmp_path / "mine.yaml", *flags, "--output", tmp_path / "run") == (0, "")


def test_other_images_of_equal_number_are_refused(run, stranger):
    images = np.load(stranger / "images.npy")
    np.save(stranger / "others.npy", images[::-1])
    np.save(stranger / "the same.npy", images)
    resume = ("--resume", stranger / "run", "--max_epochs=2", "--data.root")
    status, line = run(*resume, stranger / "others.npy")
    assert (status, line.startswith(f"--data.root {stranger / 'others.npy'}: 24 of 24 compared images")) == (2, True)
    assert run(*resume, stranger / "the same.npy") == (0, "")
    np.save(stranger / "the same.npy", images[::-1])  # under its name
    status, line = run("--resume", stranger / "run", "--max_epochs=3")
    assert (status, "images" in line) == (2, True)


def test_files_that_changed_under_their_names_are_refused(run, tmp_path):
    for row in range(24):
        (tmp_path / f"{row:02d}.png").write_bytes(encode(flat_image(10 * row)))
    assert run(*TINY, "--data.root", tmp_path, "--output", "run", "--max_epochs=1", "--prior=null") == (0, "")
    (tmp_path / "07.png").write_bytes(encode(flat_image(11)))
    status, line = run("--resume", "run", "--max_epochs=2")
    assert (status, "1 of 24 compared images" in line, "07.png" in line) == (2, True, True)


@pytest.mark.parametrize("flags", [(), ("--data.crop=none", "--data.batch_size=6", "--seed_everything=3")])
def test_a_resume_tells_what_differs_and_only_that(run, stranger, caplog, flags):
    assert run("--resume", stranger / "run", "--max_epochs=2", *flags) == (0, "")
    told = [record.getMessage() for record in caplog.records if "uninterrupted" in record.getMessage()]
    assert [message.split(" and")[0] for message in told] == [flag.replace("=", " is ") for flag in flags]
