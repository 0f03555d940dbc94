"""Parts that are injected: from Python and from the command line, into a checkpoint and out of it."""

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, TINY, equal, load
from pytorch_lightning import seed_everything
from test_module import SMALL, fit
from torch import nn
from torch.optim import AdamW

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError
from glo_lightning.explore.export import export_run
from glo_lightning.explore.exported import load_export
from glo_lightning.generator import SkipGenerator
from glo_lightning.losses import LaplacianLoss
from glo_lightning.module import GLO, PARTS
from glo_lightning.optimizers import WhitenedRows
from glo_lightning.parts import describe_part
from glo_lightning.training.cli import main

ONE = (*TINY, "--max_epochs=1", "--prior=null")


def called(*_, **__):
    pytest.fail("called")


class NoPart:
    """Of no kind that a part may be."""

    def __init__(self, *_, **__):
        called()


class Both(nn.Module):
    """A loss that is made of two others."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, generated, images):
        return self.first(generated, images) + self.second(generated, images)


# ---------------------------------------------------------------------------------------------------------- described


def test_a_class_a_partial_and_a_description_become_plain_values():
    path = "glo_lightning.generator.SkipGenerator"
    given = partial(SkipGenerator, width=np.int64(4), skip_layers=(0, torch.tensor(1)))
    described = {"class_path": path, "init_args": {"width": 4, "skip_layers": [0, 1]}}
    assert describe_part(SkipGenerator, "generator") == {"class_path": path, "init_args": {}}
    assert describe_part({"class_path": path}, "generator") == {"class_path": path, "init_args": {}}
    assert describe_part(given, "generator") == describe_part(described, "generator") == described
    assert json.loads(json.dumps(describe_part(given, "generator"))) == described


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (lambda: LaplacianLoss(), "<function <lambda> at .*>: cannot be kept in a checkpoint. Give a class"),
        (torch.relu, "cannot be kept in a checkpoint. Give a class"),
        (LaplacianLoss(), r"LaplacianLoss\(\): cannot be kept in a checkpoint. Give a class"),
        (partial(torch.relu, 3), "cannot be kept in a checkpoint. Give a class"),
        (partial(LaplacianLoss, 2), "cannot be kept .* functools.partial of one with keyword arguments"),
        (type("Local", (LaplacianLoss,), {"__qualname__": "f.<locals>.Local"}), "Give a class of a module's top level"),
        ("LaplacianLoss", "cannot be kept in a checkpoint. Give a class"),
        (partial(Both, first=nn.MSELoss()), r"Both: has arguments that a checkpoint cannot hold \({'first': MSELoss\("),
        (partial(Both, first=np.array([object()])), "has arguments that a checkpoint cannot hold .* Give plain values"),
        (partial(Both, first=torch.float32), "has arguments that a checkpoint cannot hold .* Give plain values"),
        ({"class_path": "a.B", "init_args": {"x": {"y": [print]}}}, "a.B: has arguments that a checkpoint cannot hold"),
    ],
)
@pytest.mark.filterwarnings("ignore:Attribute 'loss' is an instance")
def test_what_a_checkpoint_cannot_hold_is_refused_in_one_line_that_says_why(part, said):
    with pytest.raises(InputError, match=f"^loss .*{said}") as error:
        GLO(24, **SMALL, loss=part)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("os.mkdir", "is no class. Give other arguments, or another class"),
        ("torch.optim.SGD", "is no Module. Give other"),
        ("torch.nn.Conv4d", "there is no such class (module 'torch.nn' has no attribute 'Conv4d'). Give other"),
        ("no.Such", "there is no such class (No module named 'no'). Give other"),
    ],
)
def test_a_refusal_says_why(path, said):
    with pytest.raises(InputError) as error:
        GLO(24, **SMALL | {"generator": {"class_path": path, "init_args": {}}})
    assert str(error.value).startswith(f"generator {path}: {said}")


OTHERS = ["os.abort", "test_parts.called", "test_parts.NoPart", "test_parts", "no.Such", "x", ""]
KINDS = [(key, path) for key in PARTS for path in OTHERS]
KINDS += [("generator", "torch.optim.SGD"), ("loss", "torch.optim.SGD"), ("optimizer", "torch.nn.MSELoss")]
KINDS += [("latent_optimizer", "torch.optim.SGD"), ("latent_optimizer", "torch.nn.MSELoss")]


@pytest.mark.parametrize(("key", "path"), KINDS)
def test_nothing_is_called_but_a_class_of_the_parts_kind(key, path):
    with pytest.raises(InputError, match=f"^{key} {path}: "):
        GLO(24, **SMALL | {key: {"class_path": path}})


@pytest.mark.parametrize("path", OTHERS)
def test_nothing_is_called_but_modules_in_a_loss_made_of_others(path):
    arguments = {"first": {"class_path": path}, "second": {"class_path": "torch.nn.MSELoss"}}
    with pytest.raises(InputError, match=f"^loss {path}: "):
        GLO(24, **SMALL, loss={"class_path": "test_parts.Both", "init_args": arguments})


# ------------------------------------------------------------------------------------------------------ in checkpoints


def test_python_and_the_command_line_make_the_same_run_and_plain_checkpoints(run, tmp_path):
    flags = ("--model.generator=SkipGenerator", "--model.generator.width=4", "--model.generator.skip_layers=[0,2]")
    flags += ("--model.loss=HuberLoss", "--model.loss.delta=0.2", "--model.latent_optimizer=WhitenedRows")
    flags += ("--model.latent_optimizer.decay=0.9", "--model.optimizer=AdamW", "--model.optimizer.lr=0.01")
    flags += ("--model.optimizer.betas=[0.9,0.99]", "--model.optimizer.weight_decay=0.1")
    assert run(*ONE, *flags, "--output", tmp_path / "run") == (0, "")

    seed_everything(0, workers=True)
    model = GLO(
        24,
        **SMALL | {"generator": partial(SkipGenerator, width=4, skip_layers=(0, 2))},
        loss=partial(nn.HuberLoss, delta=0.2),
        optimizer=partial(torch.optim.AdamW, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1),
        latent_optimizer=partial(WhitenedRows, decay=0.9),
        whiten=True,
        schedule="cosine",
    )
    data = LSUNDataModule(num_samples=24, image_size=32, batch_size=8)
    fit(model, data, tmp_path).save_checkpoint(tmp_path / "python.ckpt")

    by_flags, by_python = load(tmp_path / "run"), torch.load(tmp_path / "python.ckpt", weights_only=True)
    for checkpoint in (by_flags, by_python):
        arguments = checkpoint["hyper_parameters"]
        assert json.loads(json.dumps(arguments)) == arguments  # plain values alone
        assert "_instantiator" not in arguments
    for key in PARTS:
        one, other = by_flags["hyper_parameters"][key], by_python["hyper_parameters"][key]
        assert one["class_path"].rpartition(".")[2] == other["class_path"].rpartition(".")[2]
        assert other["init_args"].items() <= one["init_args"].items()  # the parser adds the defaults
    assert equal(by_flags["state_dict"], by_python["state_dict"])
    for file in (tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "python.ckpt"):
        loaded = GLO.load_from_checkpoint(file)
        assert (loaded.loss.delta, loaded.latent_optimizer.decay) == (0.2, 0.9)
        assert equal(loaded.state_dict(), model.state_dict())


def test_a_loss_made_of_others_is_injected_and_loaded(run, tmp_path):
    flags = ("--model.loss=test_parts.Both", "--model.loss.first=MSELoss", "--model.loss.second=HuberLoss")
    assert run(*ONE, *flags, "--model.loss.second.delta=0.2", "--output", tmp_path / "run") == (0, "")
    loss = GLO.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt").loss
    assert (type(loss.first), type(loss.second), loss.second.delta) == (nn.MSELoss, nn.HuberLoss, 0.2)


@pytest.mark.parametrize("key", PARTS)
def test_a_strangers_checkpoint_or_export_calls_nothing(faces_run, tmp_path, key):
    path = "test_parts.called"
    checkpoint = load(faces_run)
    checkpoint["hyper_parameters"][key] = {"class_path": path, "init_args": {}}
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match=f"{key} {path}"):
        GLO.load_from_checkpoint(tmp_path / "evil.ckpt")
    export_run(faces_run, tmp_path / "exported")
    about = json.loads((tmp_path / "exported" / "config.json").read_text())
    about["hyper_parameters"][key] = {"class_path": path, "init_args": {}}
    (tmp_path / "exported" / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=f"{key} {path}"):
        load_export(tmp_path / "exported", GLO)


@pytest.mark.filterwarnings("ignore:.*attribute is not a class.*")
def test_a_checkpoints_instantiator_is_never_obeyed(run, faces_run, tmp_path):
    checkpoint = load(faces_run)
    assert "_instantiator" not in checkpoint["hyper_parameters"]
    checkpoint["hyper_parameters"]["_instantiator"] = "test_parts.called"
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    loaded = GLO.load_from_checkpoint(tmp_path / "evil.ckpt")
    assert equal(loaded.state_dict(), checkpoint["state_dict"])
    flags = (*ONE[1:], "--data.num_samples=96", "--max_epochs=4", "--ckpt_path", tmp_path / "evil.ckpt")
    assert run(*flags, "--output", tmp_path / "run") == (0, "")


# ------------------------------------------------------------------------------------------------- on the command line

LOSSES = "Give LaplacianLoss, MSELoss, L1Loss, SmoothL1Loss, HuberLoss or the path of a class"
WRONG = [
    # no such class
    ("--model.generator SkipGeneratr", "--model.generator SkipGeneratr: there is no such class. Did you mean SkipGen"),
    ("--model.generator no.Such", "--model.generator no.Such: there is no such class. Give Generator, SkipGen"),
    ('--model.optimizer {"class_path":"no.Such","init_args":{"lr":1}}',
     "--model.optimizer no.Such: No module named 'no'. Install its package, or give SGD, AdamW,"),
    ("--model.loss lap_l1", f"--model.loss lap_l1: there is no such class. {LOSSES}"),
    ("--model.optimizer Adamw --model.optimizer.lr 1",
     "--model.optimizer Adamw: there is no such class. Did you mean AdamW?"),
    ("--model.latent_optimizer whitened", "--model.latent_optimizer whitened: there is no such class. Did you mean Wh"),
    # a class of another kind, and what is no class
    ("--model.generator test_parts.NoPart", "--model.generator test_parts.NoPart: is no Module. Give Generator, Skip"),
    ("--model.loss test_parts.called", f"--model.loss test_parts.called: there is no such class. {LOSSES}"),
    ("--model.optimizer torch.nn.ReLU --model.optimizer.lr 1", "--model.optimizer torch.nn.ReLU: is no Optimizer."),
    ("--model.latent_optimizer torch.optim.SGD", "--model.latent_optimizer torch.optim.SGD: is no RowSGD. Give RowSGD"),
    # no such argument
    ("--model.generator.widht 3", "--model.generator.widht: SkipGenerator has no such argument. Did you mean width?"),
    ("--model.loss MSELoss --model.loss.levels 7", "--model.loss.levels: MSELoss has no such argument. See --model.lo"),
    ("--model.latent_optimizer WhitenedRows --model.latent_optimizer.dceay 1",
     "--model.latent_optimizer.dceay: WhitenedRows has no such argument. Did you mean decay?"),
    ("--config typo.yaml", "--model.generator.widht: Generator has no such argument. Did you mean width?"),
    # a value of another type, or out of range
    ("--model.generator.width many", "--model.generator.width many: is of another type. Give int"),
    ("--model.generator.width 0", "--model.generator.width 0: must be 1 or more"),
    ("--model.generator.skip_layers [9]", "--model.generator.skip_layers [9]: there are layers 0 to 2. Give some of"),
    ("--model.loss.levels 6", "--model.loss.levels 6: images of 32 pixels have at most 5 levels. Give fewer"),
    ("--model.loss.level_weights x", "--model.loss.level_weights x: is of another type. Give "),
    # what GLO passes to its parts is no argument of theirs
    ("--latent_dim 5", "--latent_dim: there is no such argument; did you mean --model.latent_dim?"),
    ("--model.generator.channels 1", "--model.generator.channels: SkipGenerator has no such argument. See --model.g"),
    ("--model.optimizer.lr -1", "--model.optimizer torch.optim.SGD: cannot be made with its arguments (ValueError at "),
    ("--model.latent_optimizer WhitenedRows --model.latent_optimizer.decay 1",
     "--model.latent_optimizer.decay 1.0: must be 0 or more, and less than 1"),
    # an argument that is missing
    ("--model.optimizer AdamW", "--model.optimizer AdamW: needs its learning rate. Add --model.optimizer.lr"),
    ("--model.loss torch.nn.Linear", "--model.loss torch.nn.Linear: needs the arguments in_features, out_features. G"),
    ("--model.optimizer {class_path:\tAdamW}", "--model.optimizer AdamW: needs its learning rate. Add --model.optim"),
    ("--config adamw.yaml", "--model.optimizer AdamW: needs its learning rate. Add --model.optimizer.lr"),
    # what the parser takes, and GLO does not
    ("--model.optimizer SparseAdam --model.optimizer.lr 1",
     "--model.optimizer torch.optim.SparseAdam: makes no step of dense gradients (RuntimeError at "),
    ("--model.optimizer LBFGS --model.optimizer.lr 1",
     "--model.optimizer torch.optim.LBFGS: makes no step of dense gradients (TypeError at "),
    ("--model.generator torch.nn.Identity", "--model.generator torch.nn.Identity: makes (2, 6) from two codes. Give"),
    ("--model.loss torch.nn.ReLU", "--model.loss torch.nn.ReLU: does not compare images of shape (2, 3, 32, 32) (Type"),
    # flags of version 0.3
    ("--model.width 4", "--model.width: there is no such argument; did you mean --model.generator.width?"),
    # LightningCLI's, which would replace GLO's own
    ("--optimizer Adam", "optimizer: there is no such argument; did you mean --model.optimizer?"),
    ("--lr_scheduler StepLR", "lr_scheduler: there is no such argument;"),
    ("--config adam.yaml", "optimizer: there is no such argument; did you mean --model.optimizer?"),
]  # fmt: skip


WRONG_FILES = {
    "typo.yaml": "model: {generator: {class_path: Generator, init_args: {widht: 3}}}",
    "adamw.yaml": "model: {optimizer: {class_path: AdamW}}",
    "adam.yaml": "optimizer: {class_path: Adam}",
}


@pytest.mark.parametrize(("flags", "first"), WRONG, ids=[flags for flags, _ in WRONG])
def test_a_wrong_part_ends_in_one_line_that_names_the_flag_and_the_nearest_name(run, tmp_path, flags, first):
    for name, text in WRONG_FILES.items():
        (tmp_path / name).write_text(text)
    status, line = run(*ONE, *(flag.replace("\t", " ") for flag in flags.split(" ")))
    assert (status, line[: len(first)]) == (2, first)
    assert {path.name for path in tmp_path.iterdir()} == WRONG_FILES.keys()


@pytest.mark.parametrize(
    ("flags", "first"),
    [
        ("--model.latent_dim 1000000", "--model.latent_dim 1000000: "),
        ("--data.image_size 64 --model.generator.width 1000", "--model.generator.width 1000: "),
    ],
)
def test_more_than_memory_holds_is_one_line(run, tmp_path, monkeypatch, flags, first):
    monkeypatch.setattr("glo_lightning.memory.free_memory", lambda: 10**9)
    status, line = run(*ONE, *flags.split(), "--model.init=random")
    assert (status, line.startswith(first)) == (2, True)
    assert "GB of memory, and 1.0 GB are free" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("named", ["AdamW", "{class_path: AdamW}", "adamw.yaml"])
def test_another_optimizer_starts_from_its_own_defaults(run, tmp_path, named):
    """The quickstart's SGD has a weight decay of 0.001, and SGD's own is 0."""
    (tmp_path / "adamw.yaml").write_text(WRONG_FILES["adamw.yaml"])
    flags = ["--config", named] if "yaml" in named else [f"--model.optimizer={named}"]
    assert run(*flags, "--model.optimizer.lr=0.01", "--print_config") == (0, "")
    arguments = yaml.safe_load(run.output)["model"]["optimizer"]["init_args"]
    assert (arguments["lr"], arguments["weight_decay"]) == (0.01, AdamW([torch.zeros(1)]).defaults["weight_decay"])


def test_the_same_class_keeps_its_arguments_and_another_keeps_none(run):
    """The quickstart's optimizer has a rate and a weight decay, its loss an l2_weight."""
    flags = ("--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.5", "--model.loss=MSELoss")
    assert run(*flags, "--print_config") == (0, "")
    model = yaml.safe_load(run.output)["model"]
    arguments = model["optimizer"]["init_args"]
    assert (arguments["lr"], arguments["weight_decay"], arguments["momentum"]) == (1.0, 0.001, 0.5)
    assert "l2_weight" not in model["loss"]["init_args"]


def test_a_configuration_may_hold_the_flags_that_lightning_adds_as_null(run, tmp_path):
    (tmp_path / "old.yaml").write_text("{optimizer: null, lr_scheduler: null}")
    assert run("--config", tmp_path / "old.yaml", "--print_config") == (0, "")
    assert not {"optimizer", "lr_scheduler"} & yaml.safe_load(run.output).keys()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--model.generator.help"], "--model.generator.width"),
        (["--model.generator=SkipGenerator", "--model.generator.help"], "--model.generator.code_scale"),
        (["--model.optimizer.help", "AdamW"], "--model.optimizer.betas"),
    ],
)
def test_a_parts_help_lists_its_arguments(monkeypatch, capsys, flags, named):
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    with pytest.raises(SystemExit):
        main(REPOSITORY / "configs" / "quickstart.yaml")
    assert named in capsys.readouterr().out
