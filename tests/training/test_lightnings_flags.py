"""Flags, callbacks and loggers of Lightning's: what works is heard and said, what cannot work is one line.

The tables hold all arguments of the Trainer and all public classes that it takes: a new one fails until it was tried.
"""

import importlib.util
import inspect
import re
import shlex
import types
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY, TINY, curves, load, same_state
from jsonargparse import Namespace
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import StrategyRegistry
from test_module import SMALL

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError
from glo_lightning.module import GLO
from glo_lightning.training import cli
from glo_lightning.training.callbacks import Curves
from glo_lightning.training.flags import LIGHTNINGS
from glo_lightning.training.launch import check_parts

ONE = (*TINY, "--max_epochs=1", "--prior=null")
FILES = {
    "misspelt.yaml": "trainer: {logger: {class_path: CVSLogger}}",
    "nowhere.yaml": "trainer: {callbacks: [{class_path: my.Callback}]}",
    "empty.yaml": "",
    "rows.yaml": "model: {num_images: 5}",
    "list.yaml": "[1]",
}
ABSENT = {"--logger=CometLogger": "comet_ml", "--callbacks+=RichProgressBar": "rich"}  # as a rule
ABSENT |= {"--callbacks+=RichModelSummary": "rich", "--callbacks+=DeviceStatsMonitor": "psutil"}
ABSENT |= {"--logger=WandbLogger": "wandb", "--logger=MLFlowLogger": "mlflow", "--logger=LitLogger": "litlogger"}
HERE = "test_lightnings_flags"
STOPPING = "--callbacks+=EarlyStopping --callbacks.monitor=train/loss_epoch"


class OwnLogger(Logger):
    """Has no folder."""

    def __init__(self, path: str = ""):
        super().__init__()
        self.names = set()

    name = version = "own"

    def log_metrics(self, metrics, step=None):
        self.names |= metrics.keys()

    def log_hyperparams(self, params, *args, **kwargs):
        assert params["latent_dim"] == 6


class Bug(Callback):
    """Ends in an exception after the last step."""

    def on_train_epoch_end(self, trainer, pl_module):
        raise ZeroDivisionError


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
    ("--accelerator=cuda", "--accelerator cuda: torch finds no GPU. Give cpu or auto."),
    ("--accelerator=mps", "trainer arguments: `MPSAccelerator` can not run on your system"),
    ("--devices=0", "trainer arguments: `Trainer(devices='0')` value is not a valid input using cpu accelerator."),
    ("--num_nodes=0", "trainer arguments: `num_nodes` must be a positive integer, but got 0."),
    ("--max_time=soon", "trainer arguments: `Timer(duration='soon')` is not a valid duration."),
    ("--gradient_clip_algorithm=foo", "trainer arguments: `gradient_clip_algorithm` foo is invalid."),
    ("--reload_dataloaders_every_n_epochs=-1", "trainer arguments: `reload_dataloaders_every_n_epochs` should be an"),
    ("--callbacks+=ProgressBar", "trainer arguments: Trainer was configured with `enable_progress_bar=False` but"),
    # what Lightning does not check
    ("--accumulate_grad_batches=0", "--accumulate_grad_batches 0: must be 1 or more"),
    ("--val_check_interval=0", "--val_check_interval 0: must be more than 0. Give --limit_val_batches 0 for none."),
    ("--callbacks+=BaseFinetuning", "trainer arguments: freeze_before_training of a class of Lightning's has to be"),
    ("--check_val_every_n_epoch=0", "--check_val_every_n_epoch 0: must be 1 or more"),
    ("--log_every_n_steps=-1", "--log_every_n_steps -1: must be 0 or more"),
    ("--seed_everything=true", "--seed_everything True: give int"),
    ("--limit_test_batches=1", "--limit_test_batches 1.0: has no effect on training. Leave it out."),
    ("--limit_predict_batches=1", "--limit_predict_batches 1.0: has no effect on training. Leave it out."),
    ("--model_registry=me/model", "--model_registry me/model: has no effect on training. Leave it out."),
    # packages that are not installed
    ("--callbacks+=RichProgressBar", "--trainer.callbacks pytorch_lightning.callbacks.RichProgressBar: cannot be"),
    ("--logger=CometLogger", "--trainer.logger pytorch_lightning.loggers.CometLogger: cannot be made (Requirement '"),
    ("--callbacks+=RichModelSummary", "--trainer.callbacks pytorch_lightning.callbacks.RichModelSummary: cannot be"),
    ("--callbacks+=DeviceStatsMonitor", "trainer arguments: `DeviceStatsMonitor` cannot log CPU stats as `psutil` is"),
    ("--logger=WandbLogger", "--trainer.logger pytorch_lightning.loggers.WandbLogger: cannot be made (Requirement '"),
    ("--logger=MLFlowLogger", "--trainer.logger pytorch_lightning.loggers.MLFlowLogger: cannot be made (Requirement"),
    ("--logger=LitLogger", "--trainer.logger LitLogger: cannot be made: it is abstract, or its package is not here."),
    ("--precision=transformer-engine", "trainer arguments: Requirement 'transformer_engine>="),
    ("--plugins=BitsandbytesPrecision --plugins.mode=nf4",
     "--trainer.plugins pytorch_lightning.plugins.BitsandbytesPrecision: cannot be made (Requirement 'bitsandbytes'"),
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
    ("--plugins=CheckpointIO", "--trainer.plugins CheckpointIO: cannot be made: it is abstract, or its package"),
    ("--plugins=LayerSync", "--trainer.plugins LayerSync: cannot be made: it is abstract, or its package"),
    ("--strategy.class_path=Strategy", "--trainer.strategy Strategy: cannot be made: it is abstract, or its package"),
    ("--strategy.class_path=ParallelStrategy", "--trainer.strategy ParallelStrategy: cannot be made: it is abstract"),
    ("--strategy=DDPStrategy", "--strategy DDPStrategy: is a class. Give --strategy.class_path DDPStrategy, or ddp."),
    ("--plugins=TransformerEnginePrecision",
     "--trainer.plugins pytorch_lightning.plugins.TransformerEnginePrecision: needs the arguments weights_dtype. Give"),
    ("--callbacks+=ThroughputMonitor",
     "--trainer.callbacks pytorch_lightning.callbacks.ThroughputMonitor: needs the arguments batch_size_fn. Give them"),
    ("--callbacks+=ThroughputMonitor --callbacks.batch_size_fn=my.count",
     "--trainer.callbacks.batch_size_fn my.count: is of another type. Give the path of a function"),
    ("--callbacks+=ThroughputMonitor --callbacks.batch_size_fn=len",
     "--trainer.callbacks.batch_size_fn len: is of another type. Give the path of a function"),
    ("--strategy.class_path=FSDPStrategy", "--strategy FSDPStrategy: cannot shard a sparse table of codes. Give ddp."),
    ("--strategy.class_path=DeepSpeedStrategy", "--strategy DeepSpeedStrategy: cannot shard a sparse table of codes."),
    ("--strategy.class_path=ModelParallelStrategy", "--strategy ModelParallelStrategy: cannot shard a sparse table"),
    ("--plugins=DeepSpeedPrecision --plugins.precision=32-true", "--plugins DeepSpeedPrecision: cannot shard a sparse"),
    ("--plugins=FSDPPrecision --plugins.precision=32-true", "--plugins FSDPPrecision: cannot shard a sparse table"),
    ("--plugins=XLAPrecision", "--plugins XLAPrecision: is for TPUs, which cannot train a sparse table of codes."),
    ("--plugins=XLACheckpointIO", "--plugins XLACheckpointIO: is for TPUs, which cannot train a sparse table of"),
    ("--profiler.class_path=XLAProfiler", "--profiler XLAProfiler: is for TPUs, which cannot train a sparse table"),
    ("--profiler=xla", "--profiler xla: is for TPUs, which cannot train a sparse table of codes. Leave it out."),
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
    ("--callbacks+=EMAWeightAveraging --model.constraint=sphere",
     "--callbacks EMAWeightAveraging: averages codes, which would leave the sphere. Give --model.constraint ball"),
    ("--callbacks+=GradientAccumulationScheduler --callbacks.scheduling={\"0\":2}",
     "--callbacks GradientAccumulationScheduler: changes the number of steps, which a cosine has to know. Give"),
    ("--plugins=AsyncCheckpointIO", "--plugins AsyncCheckpointIO: would replace the checkpoints that survive a kill."),
    ("--plugins=TorchCheckpointIO", "--plugins TorchCheckpointIO: would replace the checkpoints that survive a kill."),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "first"), WRONG, ids=[flags for flags, _ in WRONG])
def test_what_cannot_work_is_one_line_that_leaves_nothing(run, tmp_path, flags, first):
    package = ABSENT.get(flags)
    if package and importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    if flags == "--accelerator=cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
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
]


@pytest.mark.parametrize(("flags", "said"), HEARD, ids=[flags for flags, _ in HEARD])
@pytest.mark.filterwarnings("ignore")
def test_what_works_says_so(run, tmp_path, flags, said):
    assert run(*ONE, *flags.split(), "--output=run") == (0, "")
    assert said in run.output


class Seen(Callback):
    """What a Trainer's arguments cause while it trains."""

    def __init__(self):
        self.loaders, self.validations, self.checks = [], 0, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.anomaly, self.dtype = torch.is_anomaly_enabled(), pl_module.latents.weight.dtype
        self.deterministic = torch.are_deterministic_algorithms_enabled()
        self.benchmark, self.autocast = torch.backends.cudnn.benchmark, torch.is_autocast_enabled("cpu")
        self.loaders.append(trainer.train_dataloader)

    def on_validation_batch_start(self, trainer, *_):
        self.checks += trainer.sanity_checking
        self.validations += not trainer.sanity_checking
        self.inference = torch.is_inference_mode_enabled()


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """fit(flags) -> of scripts/train.py in this process its ``trainer``, its ``folder`` and ``seen``."""
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark

    def fit(flags):
        fitted = types.SimpleNamespace()

        def keep(start, trainer, *others):
            fitted.trainer, fitted.folder = trainer, start.folder.path
            cli_fit(start, trainer, *others)

        cli_fit, folder = cli.fit, tmp_path_factory.mktemp("fit")
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.chdir(folder)
            patch.setattr(cli, "fit", keep)
            small = ("--data.image_size=16", f"--callbacks+={HERE}.Seen")
            patch.setattr("sys.argv", ["train.py", *ONE, *small, *shlex.split(flags)])
            cli.main(REPOSITORY / "configs" / "quickstart.yaml")
        (fitted.seen,) = (callback for callback in fitted.trainer.callbacks if isinstance(callback, Seen))
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        return fitted

    return fit


def of_type(ran, name):
    return [callback for callback in ran.trainer.callbacks if type(callback).__name__ == name]


TOGETHER = [  # arguments of one run, each with what shows that it was heard
    ("--accelerator.class_path=CPUAccelerator", lambda ran: type(ran.trainer.accelerator).__name__ == "CPUAccelerator"),
    ("--strategy.class_path=SingleDeviceStrategy --strategy.device=cpu",
     lambda ran: type(ran.trainer.strategy).__name__ == "SingleDeviceStrategy"),
    ("--devices=1", lambda ran: ran.trainer.num_devices == 1),
    ("--num_nodes=1", lambda ran: ran.trainer.num_nodes == 1),
    ("--precision=64-true", lambda ran: ran.seen.dtype is torch.float64),
    ("--max_epochs=4", lambda ran: ran.trainer.max_epochs == 4),
    (f"{STOPPING} --callbacks.patience=0 --callbacks.min_delta=9 --min_epochs=3",
     lambda ran: ran.trainer.current_epoch == 3),  # it would end after two
    ("--max_time=00:01:00:00", lambda ran: of_type(ran, "Timer")),
    ("--data.batch_size=4 --limit_train_batches=2", lambda ran: len(ran.seen.loaders) == 3 * 2),
    ("--accumulate_grad_batches=2", lambda ran: ran.trainer.global_step == 3),
    ("--data.holdout=8 --limit_val_batches=1", lambda ran: ran.seen.validations == 3 * 2),
    ("--val_check_interval=1", lambda ran: ran.seen.validations == 3 * 2),
    ("--num_sanity_val_steps=1", lambda ran: ran.seen.checks == 1),
    ("--log_every_n_steps=1", lambda ran: "train/loss" in Path(ran.folder, "metrics.csv").read_text()),
    ("--enable_progress_bar=true --progress=bar", lambda ran: of_type(ran, "Bar")),
    ("--enable_model_summary=true", lambda ran: of_type(ran, "ModelSummary") or of_type(ran, "RichModelSummary")),
    ("--gradient_clip_val=0.5", lambda ran: ran.trainer.gradient_clip_val == 0.5),
    ("--gradient_clip_algorithm=value", lambda ran: ran.trainer.gradient_clip_algorithm == "value"),
    ("--deterministic=true", lambda ran: ran.seen.deterministic),
    ("--benchmark=true", lambda ran: ran.seen.benchmark),
    ("--inference_mode=false", lambda ran: not ran.seen.inference),
    ("--use_distributed_sampler=false", lambda ran: len(ran.seen.loaders[0]) == 4),
    ("--sync_batchnorm=true", lambda ran: ran.trainer.world_size == 1),  # needs several processes
    ("--reload_dataloaders_every_n_epochs=1", lambda ran: len(set(map(id, ran.seen.loaders))) == 3),
    ("--default_root_dir=elsewhere", lambda ran: ran.folder.parents[2].name == "elsewhere"),
    ("--logger=CSVLogger", lambda ran: Path(ran.folder, "metrics.csv").exists()),
    ("--enable_autolog_hparams=false", lambda ran: not Path(ran.folder, "hparams.yaml").exists()),
    ("--profiler=PassThroughProfiler", lambda ran: type(ran.trainer.profiler).__name__ == "PassThroughProfiler"),
]  # fmt: skip


@pytest.fixture(scope="module")
def together(fit):
    return fit(" ".join(flags for flags, _ in TOGETHER))


@pytest.mark.parametrize(("flags", "is_heard"), TOGETHER, ids=[flags for flags, _ in TOGETHER])
def test_an_argument_is_heard_together_with_the_others(together, flags, is_heard):
    assert is_heard(together)


LAMBDA = f"--callbacks+=LambdaCallback --callbacks.on_train_start={HERE}.began"
BEGAN = []  # trainers


def began(trainer, pl_module):
    BEGAN.append(trainer)


def count(batch):
    return len(batch[1])


ALONE = [
    ("--fast_dev_run=2", lambda ran: ran.trainer.global_step == 2 and not any(ran.folder.glob("*"))),
    ("--barebones=true", lambda ran: ran.trainer.barebones and not any(ran.folder.glob("*"))),
    ("--max_steps=2 --max_epochs=-1", lambda ran: ran.trainer.global_step == 2),
    (f"{STOPPING} --callbacks.patience=0 --callbacks.min_delta=9 --min_steps=8 --max_epochs=4",
     lambda ran: ran.trainer.global_step == 8),
    ("--detect_anomaly=true", lambda ran: ran.seen.anomaly),
    ("--overfit_batches=1", lambda ran: ran.trainer.global_step == 1),
    ("--check_val_every_n_epoch=2 --max_epochs=3 --data.holdout=8", lambda ran: ran.seen.validations == 1),
    ("--limit_train_batches=0.7", lambda ran: ran.trainer.global_step == 2),
    ("--enable_checkpointing=false", lambda ran: not (ran.folder / "checkpoints").exists()),
    ("--strategy.class_path=DDPStrategy --plugins=LightningEnvironment",
     lambda ran: type(ran.trainer.strategy.cluster_environment).__name__ == "LightningEnvironment"),
    ("--logger=TensorBoardLogger", lambda ran: any(ran.folder.glob("events.*"))),
    ("--logger=DummyLogger", lambda ran: type(ran.trainer.logger).__name__ == "DummyLogger"),
    (f"--logger={HERE}.OwnLogger --logger.path=x", lambda ran: "train/loss_epoch" in ran.trainer.logger.names),
    # profilers and plugins
    ("--profiler=AdvancedProfiler --profiler.filename=p", lambda ran: (ran.folder / "fit-p.txt").stat().st_size > 0),
    ("--profiler=PyTorchProfiler --profiler.filename=p", lambda ran: any(ran.folder.glob("fit-p-*.trace.json"))),
    ("--plugins=DoublePrecision", lambda ran: ran.seen.dtype is torch.float64),
    ("--plugins=HalfPrecision --plugins.precision=bf16-true", lambda ran: ran.seen.dtype is torch.bfloat16),
    ("--plugins=MixedPrecision --plugins.precision=bf16-mixed --plugins.device=cpu",
     lambda ran: type(ran.trainer.precision_plugin).__name__ == "MixedPrecision"),
    ("--plugins=Precision", lambda ran: ran.seen.dtype is torch.float32),
    ("--plugins=TorchSyncBatchNorm", lambda ran: ran.trainer.global_step == 3),
    # callbacks
    (f"{LAMBDA} --callbacks+=Callback --callbacks+=Checkpoint --callbacks+=BasePredictionWriter "
     "--callbacks+=ModelSummary",
     lambda ran: [ran.trainer] == BEGAN),
    ("--callbacks+=GradientAccumulationScheduler --callbacks.scheduling='{\"1\": 3}' --model.schedule=constant "
     "--max_epochs=2", lambda ran: ran.trainer.global_step == 3 + 1),
    (f"--callbacks+=ThroughputMonitor --callbacks.batch_size_fn={HERE}.count --logger=CSVLogger --log_every_n_steps=1",
     lambda ran: "samples" in Path(ran.folder, "metrics.csv").read_text()),
    ("--enable_progress_bar=true --callbacks+=TQDMProgressBar",
     lambda ran: of_type(ran, "TQDMProgressBar")),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "is_heard"), ALONE, ids=[flags for flags, _ in ALONE])
def test_an_argument_is_heard_alone(fit, flags, is_heard):
    assert is_heard(fit(flags))


def test_a_spike_of_the_loss_is_one_line_and_its_batches_are_kept(run, tmp_path):
    flags = ("--callbacks+=SpikeDetection", "--callbacks.rtol=0", "--callbacks.mode=max", "--output=run")
    status, line = run(*ONE, *flags)
    assert (status, line[:36]) == (1, "Training spike detected in batch 1. ")
    assert (tmp_path / "run" / "skip_batches.json").exists()


def test_an_exception_is_kept_as_a_checkpoint(tmp_path, fit):
    with pytest.raises(ZeroDivisionError):
        fit(f"--callbacks+=OnExceptionCheckpoint --callbacks.dirpath={tmp_path} --callbacks+={HERE}.Bug")
    assert torch.load(tmp_path / "on_exception.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("average", ["EMAWeightAveraging --callbacks.decay=0.9", "WeightAveraging"])
def test_an_average_of_the_weights_is_saved_and_resumed(run, tmp_path, average):
    """In mid-epoch."""
    flags = (*ONE, "--model.schedule=constant", *f"--callbacks+={average}".split())
    assert run(*flags, "--output=whole") == (0, "")
    assert run(*flags, "--output=run", "--max_steps=1") == (0, "")
    assert run("--resume=run", "--max_steps=-1") == (0, "")
    assert same_state(tmp_path / "run", tmp_path / "whole")
    saved = load(tmp_path / "run")
    assert not torch.equal(*(saved[key]["latents.weight"] for key in ("state_dict", "current_model_state")))


@pytest.mark.parametrize(
    ("flags", "steps"), [("--max_epochs=0", 0), ("--max_steps=0", 0), ("--limit_train_batches=0", 0)]
)
def test_a_run_of_no_steps_says_so(run, tmp_path, flags, steps):
    assert run(*ONE, flags) == (0, "")
    assert "No step was trained" in run.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(StrategyRegistry.available_strategies()))
def test_every_strategy_trains_codes_or_is_refused(name):
    flags = Namespace(strategy=name, plugins=None, profiler=None)
    if name in ("single_device", "ddp", *(f"ddp_find_unused_parameters_{unused}" for unused in ("true", "false"))):
        check_parts(flags)
    else:
        with pytest.raises(InputError, match=f"strategy {name}: "):
            check_parts(flags)


WRITTEN = [
    ("--logger=CSVLogger --logger.save_dir=csv", "csv/metrics.csv"),
    ("--profiler.class_path=SimpleProfiler --profiler.filename=prof", "run/fit-prof.txt"),
    ("--callbacks+=ModelCheckpoint --callbacks.save_last=true --callbacks.dirpath=mine", "mine/last.ckpt"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("flags", "file"), WRITTEN)
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


def test_tensorboard_has_no_step_twice_after_a_kill(run, tmp_path):
    """As with the logger that a run has without the flag. The last checkpoint was not written any more."""
    assert run(*ONE, "--logger=TensorBoardLogger", "--output=run", "--max_epochs=2") == (0, "")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    assert run("--resume=run", "--max_epochs=3")[0] == 0
    assert [step for step, _ in curves(tmp_path / "run")["train/loss_epoch"]] == [2, 5, 8]


def test_a_found_batch_size_is_in_the_configuration(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flags = ("--callbacks+=BatchSizeFinder", "--callbacks.max_trials=2", "--callbacks.mode=binsearch")
        assert run(*ONE, *flags, "--output=run") == (0, "")
    assert "Batch size 2 succeeded" in run.output
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


TRIED = " ".join(flags for table in (WRONG, HEARD, WRITTEN, TOGETHER, ALONE) for flags, _ in table)
TRIED += " StochasticWeightAveraging WeightAveraging EMAWeightAveraging"  # in tests of their own
TRIED += " BatchSizeFinder OnExceptionCheckpoint SpikeDetection"


def test_every_argument_of_the_trainer_has_been_tried():
    flags = [f"--{name}" for name in inspect.signature(Trainer).parameters]
    flags += [f"--accelerator={name}" for name in AcceleratorRegistry.available_accelerators() if name != "cpu"]
    assert not [flag for flag in flags if not re.search(rf"{flag}\b", TRIED)]


def test_every_public_class_of_lightnings_has_been_tried():
    names = [(package, name) for package in LIGHTNINGS.values() for name in package.__all__]
    classes = [name for package, name in names if inspect.isclass(getattr(package, name))]
    assert not [name for name in classes if not re.search(rf"\b{name}\b", TRIED)]
