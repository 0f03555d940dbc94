"""Flags, callbacks and loggers of Lightning's: what works is heard and said, what cannot work is one line."""

import importlib.util
import warnings

import pytest
import torch
import yaml
from conftest import TINY, curves, load
from pytorch_lightning import Callback, Trainer
from test_module import SMALL

from glo_lightning.data import LSUNDataModule
from glo_lightning.module import GLO
from glo_lightning.training.callbacks import Curves

ONE = (*TINY, "--max_epochs=1", "--prior=null")
FILES = {
    "misspelt.yaml": "trainer: {logger: {class_path: CVSLogger}}",
    "nowhere.yaml": "trainer: {callbacks: [{class_path: my.Callback}]}",
    "empty.yaml": "",
    "rows.yaml": "model: {num_images: 5}",
    "list.yaml": "[1]",
}
ABSENT = {"--logger=CometLogger": "comet_ml", "--callbacks+=RichProgressBar": "rich"}  # as a rule
STOPPING = "--callbacks+=EarlyStopping --callbacks.monitor=train/loss_epoch"


class Unmade(Callback):
    """Cannot be made."""

    def __init__(self):
        raise OverflowError("of my own")


WRONG = [
    # Lightning's own checks, before the fit and in it
    ("--limit_val_batches=0.5 --data.holdout=4", "trainer arguments: You requested to check 0.5 of the"),
    ("--val_check_interval=100", "trainer arguments: `val_check_interval` (100) must be less than or equal to"),
    ("--overfit_batches=0.1", "trainer arguments: You requested to check 0.1 of the `train_dataloader`"),
    ("--callbacks+=EarlyStopping --callbacks.monitor=nothing", "trainer arguments: Early stopping conditioned on"),
    ("--profiler=foo", "trainer arguments: When passing string value for the `profiler`"),
    ("--strategy=nosuch", "trainer arguments: You selected an invalid strategy name"),
    # what Lightning does not check
    ("--accumulate_grad_batches=0", "--accumulate_grad_batches 0: must be 1 or more"),
    ("--val_check_interval=0", "--val_check_interval 0: must be more than 0. Give --limit_val_batches 0 for none."),
    ("--callbacks+=BaseFinetuning", "trainer arguments: freeze_before_training of a class of Lightning's has to be"),
    ("--check_val_every_n_epoch=0", "--check_val_every_n_epoch 0: must be 1 or more"),
    ("--log_every_n_steps=-1", "--log_every_n_steps -1: must be 0 or more"),
    ("--seed_everything=true", "--seed_everything True: give int"),
    # packages that are not installed
    ("--callbacks+=RichProgressBar", "--trainer.callbacks pytorch_lightning.callbacks.RichProgressBar: cannot be"),
    ("--logger=CometLogger", "--trainer.logger pytorch_lightning.loggers.CometLogger: cannot be made (Requirement '"),
    ("--precision=transformer-engine", "trainer arguments: Requirement 'transformer_engine>="),
    ("--accelerator=tpu", "trainer arguments: Requirement 'torch_xla>="),
    # constructors
    (f"{STOPPING} --callbacks.mode=minimal",
     "--trainer.callbacks pytorch_lightning.callbacks.EarlyStopping: cannot be made (`mode` can be min, max, got mi"),
    ("--callbacks+=test_lightnings_flags.Unmade",
     "--trainer.callbacks test_lightnings_flags.Unmade: cannot be made (of my own). Give other arguments, or another"),
    # the names of classes and of their arguments
    ("--callbacks+=EarlyStoping --callbacks.monitor=x",
     "--trainer.callbacks EarlyStoping: there is no such class. Did you mean EarlyStopping?"),
    ("--logger=CVSLogger", "--trainer.logger CVSLogger: there is no such class. Did you mean CSVLogger?"),
    ("--logger.class_path=CVSLogger", "--trainer.logger CVSLogger: there is no such class. Did you mean CSVLogger?"),
    ("--config=misspelt.yaml", "--trainer.logger CVSLogger: there is no such class. Did you mean CSVLogger?"),
    ("--config=nowhere.yaml", "--trainer.callbacks my.Callback: cannot be made (No module named 'my'). Give another"),
    ("--strategy.class_path=DDPStratgy", "--trainer.strategy DDPStratgy: there is no such class. Did you mean DDPStra"),
    ("--logger=Logger", "--trainer.logger Logger: cannot be made: it is abstract, or its package is not here. Give "),
    ("--profiler.class_path=Profiler", "--trainer.profiler Profiler: cannot be made: it is abstract, or its package"),
    ("--strategy.class_path=FSDPStrategy", "--strategy FSDPStrategy: cannot shard a sparse table of codes. Give ddp."),
    ("--strategy.class_path=DeepSpeedStrategy", "--strategy DeepSpeedStrategy: cannot shard a sparse table of codes."),
    ("--profiler.class_path=foo", "--trainer.profiler foo: there is no such class. Give "),
    ("--plugins=nosuch", "--trainer.plugins nosuch: there is no such class. Give "),
    ("--callbacks+=torch.nn.ReLU", "--trainer.callbacks torch.nn.ReLU: is no Callback. Give "),
    ("--callbacks+=EarlyStopping", "--trainer.callbacks pytorch_lightning.callbacks.EarlyStopping: needs the argum"),
    ("--callbacks=EarlyStopping", "--trainer.callbacks pytorch_lightning.callbacks.EarlyStopping: needs the argum"),
    (f"{STOPPING} --callbacks.patience=many", "--trainer.callbacks.patience many: is of another type. Give int"),
    (f"{STOPPING} --callbacks.patince=3", "--trainer.callbacks.patince: EarlyStopping has no such argument. Did you"),
    ("--logger=CSVLogger --logger.save_dri=d", "--trainer.logger.save_dri: CSVLogger has no such argument. Did you"),
    ("--logger.save_dir=d", "--trainer.logger.save_dir: needs a class that it belongs to. Give --trainer.logger first"),
    ("--config=empty.yaml", "--config: a file holds nothing, and no arguments; give a YAML file"),
    ("--config=list.yaml", "--config: a file holds [1], and no arguments; give a YAML file"),
    # what cannot work with GLO
    ("--config=rows.yaml", "model.num_images 5: is read from the data. Leave it out."),
    ("--callbacks+=LearningRateFinder", "--callbacks LearningRateFinder: knows one learning rate, and GLO has two."),
    ("--callbacks+=LearningRateMonitor", "--callbacks LearningRateMonitor: logs learning rates, which are logged"),
    ("--callbacks+=LearningRateMonitor --logger=false", "--callbacks LearningRateMonitor: logs learning rates"),
    ("--callbacks+=BackboneFinetuning", "--callbacks BackboneFinetuning: needs a backbone, and the model has none."),
    ("--callbacks+=ModelPruning --callbacks.pruning_fn=random_unstructured", "--callbacks ModelPruning: cannot prune"),
    ("--plugins=AsyncCheckpointIO", "--plugins AsyncCheckpointIO: would replace the checkpoints that survive a kill."),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "first"), WRONG, ids=[flags for flags, _ in WRONG])
def test_what_cannot_work_is_one_line_that_leaves_nothing(run, tmp_path, flags, first):
    package = ABSENT.get(flags)
    if package and importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    status, line = run(*ONE, *flags.split())
    assert (status, line[: len(first)]) == (2, first)
    assert {path.name for path in tmp_path.iterdir()} == FILES.keys()


HEARD = [
    # reports
    ("--profiler=simple", "FIT Profiler Report"),
    ("--max_time=00:00:00:00", "Time limit reached."),
    ("--callbacks+=Timer --callbacks.duration=00:00:00:00", "Time limit reached."),
    (f"{STOPPING} --callbacks.verbose=true", "Metric train/loss_epoch improved."),
    (
        f"{STOPPING} --callbacks.patience=1 --callbacks.min_delta=9 --callbacks.verbose=true --max_epochs=4",
        "Signaling Trainer to stop.",
    ),
    ("--enable_model_summary=true", "Trainable params"),
    ("--callbacks+=BatchSizeFinder --callbacks.max_trials=2", "Batch size 2 succeeded"),
]


@pytest.mark.parametrize(("flags", "said"), HEARD, ids=[flags for flags, _ in HEARD])
@pytest.mark.filterwarnings("ignore")
def test_what_works_says_so(run, tmp_path, flags, said):
    assert run(*ONE, *flags.split(), "--output=run") == (0, "")
    assert said in run.output


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("flags", "file"),
    [
        ("--logger=CSVLogger --logger.save_dir=csv", "csv/metrics.csv"),
        ("--profiler.class_path=SimpleProfiler --profiler.filename=prof", "run/fit-prof.txt"),
        ("--callbacks+=ModelCheckpoint --callbacks.save_last=true --callbacks.dirpath=mine", "mine/last.ckpt"),
    ],
)
def test_arguments_of_classes_need_no_prefix(run, tmp_path, flags, file):
    assert run(*ONE, *flags.split(), "--output=run") == (0, "")
    assert (tmp_path / file).is_file()


def test_a_fast_dev_run_writes_nothing(run, tmp_path):
    assert run(*ONE, "--fast_dev_run=true") == (0, "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ("--limit_train_batches=2", [1]),
        ("--accumulate_grad_batches=2", [1]),
        ("--max_steps=2", [1]),
        ("--log_every_n_steps=1", [0, 1, 2]),
        ("", [2]),
    ],
)
def test_the_loss_is_logged_at_least_once_an_epoch(run, tmp_path, flags, steps):
    assert run(*ONE, *flags.split(), "--output=run") == (0, "")
    logged = curves(tmp_path / "run")
    assert [step for step, _ in logged["train/loss"]] == [step for step, _ in logged["lr-SGD/generator"]] == steps


@pytest.mark.filterwarnings("ignore")  # of SWA's own
@pytest.mark.parametrize("callback", ["StochasticWeightAveraging --callbacks.swa_lrs=0.1", "Timer"])
def test_a_run_with_defaults_that_yaml_cannot_hold_is_resumed_and_repeated(run, tmp_path, callback):
    flags = (*TINY, "--prior=null", *f"--callbacks+={callback}".split())
    assert run(*flags, "--max_epochs=3", "--output=run") == (0, "")
    assert "Unable to serialize" not in (tmp_path / "run" / "config.yaml").read_text()
    assert run("--resume=run", "--max_epochs=6") == (0, "")
    assert run("--config=run/config.yaml", "--max_epochs=1", "--output=again") == (0, "")


def test_a_found_batch_size_is_in_the_configuration(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flags = ("--callbacks+=BatchSizeFinder", "--callbacks.max_trials=2", "--callbacks.mode=binsearch")
        assert run(*ONE, *flags, "--output=run") == (0, "")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["batch_size"] == load(tmp_path / "run")["LSUNDataModule"]["settings"]["batch_size"]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_checkpoint_of_a_trainer_without_curves_is_continued_with_them(tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    data = LSUNDataModule(num_samples=24, image_size=32, batch_size=8)
    checkpoint = tmp_path / "plain.ckpt"
    trainer = Trainer(max_epochs=1, **quiet, enable_checkpointing=False)
    trainer.fit(GLO(24, **SMALL), data)
    trainer.save_checkpoint(checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    torch.save({key: value for key, value in state.items() if key not in ("initial_codes", "epoch_loss")}, checkpoint)
    continued = Trainer(max_epochs=2, **quiet, enable_checkpointing=False, callbacks=[Curves()])
    continued.fit(GLO(24, **SMALL), data, ckpt_path=checkpoint, weights_only=True)
    assert continued.global_step == 6
