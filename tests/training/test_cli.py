from pathlib import Path
from pydoc import locate

import pytest
import torch
import yaml
from conftest import REPOSITORY, TINY, curves, encode, flat_image, load, same_state, write_lmdb
from image_sets import write_celeba, write_mnist

from glo_lightning.devices import find_device
from glo_lightning.module import GLO

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(run, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(*TINY, "--output", tmp_path / name, "--max_epochs=1", "--seed_everything", seed)
    assert same_state(tmp_path / "a", tmp_path / "b")
    assert not same_state(tmp_path / "a", tmp_path / "c")


def test_a_finished_run_says_so(run, trained, monkeypatch):
    said = []
    monkeypatch.setattr("glo_lightning.training.cli.log.info", lambda message, *_: said.append(message))
    assert run("--resume", trained) == (0, "")
    assert "--max_epochs" in said[-1]


def test_a_longer_run_follows_the_schedule_of_the_new_length(run, trained, monkeypatch):
    said = []
    monkeypatch.setattr("glo_lightning.module.log.info", lambda message, *values: said.append(message % values))
    run("--resume", trained, "--max_epochs=4", "--log_every_n_steps=1")
    assert "new length of 12 batches (was 6) from batch 6" in said[-1]
    rates = [rate for _, rate in curves(trained)["lr-SGD/generator"]]
    assert rates[-6] == pytest.approx(0.5)  # half-way down the longer cosine
    assert rates[-6:] == sorted(rates[-6:], reverse=True)


def test_rates_given_at_resume_win_over_the_checkpoints(run, trained):
    given = ("--model.optimizer.lr=0.25", "--model.optimizer.weight_decay=0.125", "--model.schedule=constant")
    run("--resume", trained, "--max_epochs=3", *given)
    checkpoint = load(trained)
    generator = checkpoint["optimizer_states"][0]["param_groups"][0]
    assert (generator["lr"], generator["weight_decay"]) == (0.25, 0.125)


def test_ckpt_path_goes_on_in_a_folder_of_its_own(run, trained, tmp_path):
    before = (trained / "checkpoints" / "last.ckpt").read_bytes()
    ckpt = trained / "checkpoints" / "last.ckpt"
    run(*TINY, "--ckpt_path", ckpt, "--max_epochs=3", "--output", tmp_path / "other")
    assert load(tmp_path / "other")["epoch"] == 2
    assert ckpt.read_bytes() == before


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--data.root", "other"),
        ("--data.num_samples", 23),
        ("--model.latent_dim", 5),
        ("--model.generator.width", 8),
        ("--model.generator", "Generator"),
        ("--model.generator.code_scale", 2),
        ("--model.optimizer", "AdamW"),
        ("--model.latent_optimizer", "WhitenedRows"),
    ],
)
def test_resuming_with_other_data_or_another_shape_is_refused(run, trained, tmp_path, flag, value):
    if value == "other":
        value = write_lmdb(tmp_path / "other", {b"%02x" % row: encode(flat_image(row)) for row in range(24)})
    before = (trained / "config.yaml").read_bytes()
    status, line = run("--resume", trained, "--max_epochs=3", flag, value, "--model.optimizer.lr=0.1")
    assert (status, line.split()[0]) == (2, flag)
    assert (trained / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("value", ["auto", "true", "false"])
def test_cache_on_device_is_read_from_flags_and_files(run, tmp_path, value):
    (tmp_path / "given.yaml").write_text(f"data: {{cache_on_device: {value}}}")
    for flags in (["--config", tmp_path / "given.yaml"], [f"--data.cache_on_device={value}"]):
        assert run(*flags, "--print_config") == (0, "")
        assert yaml.safe_load(run.output)["data"]["cache_on_device"] in (value, yaml.safe_load(value))


def write_lsun(folder: Path, _: object, number: int) -> None:
    for split in ("train", "val"):
        images = {b"%02x" % row: encode(flat_image(row)) for row in range(number)}
        write_lmdb(folder / f"bedroom_{split}_lmdb", images)


# what writes small files of the set that a recipe is for; the others train on the shipped faces
SETS = {
    "mnist": lambda folder, _, number: write_mnist(folder, number),
    "celeba64": write_celeba,
    "lsun_128": write_lsun,
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_every_config_trains(run, config, tmp_path, monkeypatch):
    shorter = ("--data.num_samples=64", "--model.generator.width=2", "--max_epochs=1", "--enable_progress_bar=false")
    if config.stem in SETS:
        SETS[config.stem](tmp_path / "set", monkeypatch, 40)
        shorter = ("--data.num_samples=40", "--data.root", tmp_path / "set", *shorter[1:])
    latent_dim = 64 if config.stem in ("folder", "photographs") else 8  # of 8x8 places
    small = ("--data.image_size=32", f"--model.latent_dim={latent_dim}", "--data.num_workers=0")
    assert run("--config", config, *shorter, *small, "--output", tmp_path / "a") == (0, "")
    expected = yaml.safe_load(config.read_text())["model"]
    got = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["model"]
    for key, value in expected.items():
        if isinstance(value, dict):  # a part: the run has its defaults too
            name, made = value["class_path"], got[key]["class_path"]
            assert locate(made) is locate(name) if "." in name else made.rpartition(".")[2] == name
            given = value.get("init_args", {}) | ({"width": 2} if key == "generator" else {})
            assert given.items() <= got[key]["init_args"].items()
        else:
            assert key == "latent_dim" or got[key] == value


def test_nothing_of_quickstart_leaks_into_another_config(run, tmp_path):
    (tmp_path / "empty.yaml").write_text("{}")
    run("--config", tmp_path / "empty.yaml", "--print_config")
    assert yaml.safe_load(run.output)["model"]["schedule"] == "constant"


HEARD = ["--fast_dev_run=true", "--barebones=true", "--logger=false", "--enable_checkpointing=false"]
HEARD += ["--precision=bf16-mixed --gradient_clip_val=0.5 --limit_train_batches=2 --log_every_n_steps=1"]
HEARD += ["--gradient_clip_val=0.5 --gradient_clip_algorithm=value"]


@pytest.mark.parametrize("arguments", HEARD)
@pytest.mark.filterwarnings("ignore:.*barebones.*", "ignore:.*max_epochs.*")
def test_trainer_arguments_are_heard(run, tmp_path, arguments):
    quiet = [flag for flag in TINY if "progress" not in flag] if "barebones" in arguments else TINY
    assert run(*quiet, "--max_epochs=1", "--output", tmp_path / "a", *arguments.split()) == (0, "")


# -------------------------------------------------------------------------------------------------------------- errors


BAD = [
    ("--data.root nothing_here", "--data.root", "nothing_here"),
    ("--data.root a_file", "--data.root", "a_file"),
    ("--data.root no_lmdb", "--data.root", "no_lmdb"),
    ("--data.root garbage", "--data.root", "garbage"),
    ("--data.root empty", "--data.root", "empty"),
    ("--data.root no_images --data.num_samples null", "key abc0", "no_images"),
    ("--model.latent_dim 0", "--model.latent_dim", "0"),
    ("--model.latent_dim 25", "--model.latent_dim", "25"),
    ("--data.image_size 48", "--data.image_size", "48"),
    ("--data.batch_size 0", "--data.batch_size", "0"),
    ("--data.batch_size many", "--data.batch_size", "many"),
    ("--data.num_samples 0", "--data.num_samples", "0"),
    ("--data.num_samples 4097", "--data.num_samples", "4096"),
    ("--data.num_workers -1", "--data.num_workers", "-1"),
    ("--model.latent_lr -1", "--model.latent_lr", "-1"),
    ("--model.latent_from 0.5", "--model.latent_from", "did you mean --model.latent_lr?"),
    ("--checkpoint.on_bad_write skip", "--checkpoint.on_bad_write", "did you mean --checkpoint.on_write_error?"),
    ("--on_nonfinite_loss never", "--on_nonfinite_loss never", "skip"),
    ("--model.init zero", "--model.init", "pca"),
    ("--model.constraint cube", "--model.constraint", "ball"),
    ("--bathc_size 3", "--bathc_size", "--data.batch_size"),
    ("--trainer.max_epoch 3", "--trainer.max_epoch", "--trainer.max_epochs"),
    ("--max_epochs some", "--trainer.max_epochs", "some"),
    ("--config nothing_here.yaml", "--config", "nothing_here.yaml"),
    ("--config misspelt.yaml", "latnet_dim", "--model.latent_dim"),
    ("--config broken.yaml", "--config", "line 1"),
    ("--accelerator abacus", "trainer", "abacus"),
    ("--resume nothing_here", "--resume", "nothing_here"),
    ("--ckpt_path nothing_here", "--ckpt_path", "nothing_here"),
    ("--ckpt_path a_file", "--ckpt_path", "a_file"),
    ("--output a_run", "--output", "--resume a_run"),
    ("--output a_file/below", "--output", "a_file"),
    ("--output /proc/nobody/writes/here", "--output", "/proc/nobody"),
]


@pytest.fixture
def bad_inputs(tmp_path):
    (tmp_path / "a_file").write_text("x")
    (tmp_path / "no_lmdb").mkdir()
    (tmp_path / "a_run").mkdir()
    (tmp_path / "a_run" / "config.yaml").write_text("{}")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "data.mdb").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "misspelt.yaml").write_text("model: {latnet_dim: 1}")
    (tmp_path / "broken.yaml").write_text("model: [a\n b: {")
    write_lmdb(tmp_path / "empty", {})
    write_lmdb(tmp_path / "no_images", {b"abc%d" % row: b"hello" for row in range(24)})


@pytest.mark.parametrize(("arguments", "first", "further"), BAD, ids=[arguments for arguments, *_ in BAD])
def test_wrong_input_ends_in_one_line(run, bad_inputs, tmp_path, arguments, first, further):
    before = set(tmp_path.iterdir())
    status, line = run(*TINY, *arguments.split())
    assert status == 2
    assert line.startswith(first)
    assert further in line
    assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(run):
    status, line = run(*TINY, "--accelerator", "gpu")
    assert (status, line.startswith("--accelerator gpu")) == (2, True)


def test_a_damaged_checkpoint_with_none_before_it_is_named_and_left_alone(run, trained):
    last = trained / "checkpoints" / "last.ckpt"
    content = last.read_bytes()[:1000]
    last.unlink()
    last.write_bytes(content)
    (trained / "checkpoints" / "previous.ckpt").unlink()
    status, line = run("--resume", trained, "--max_epochs=3")
    assert status == 2
    assert line.startswith(f"--resume {last}")
    assert last.read_bytes() == content


def test_help_names_every_flag(run, tmp_path):
    assert run("--help") == (0, "")
    for flag in ("--output", "--resume", "--ckpt_path", "--data.root", "--model.latent_lr", "--trainer.accelerator"):
        assert flag in run.output
    assert len(run.output.splitlines()) < 750
    names = " ".join(run.output.split())
    for some in (
        "Generator, SkipGenerator, SpatialGenerator or",
        "LaplacianLoss, MSELoss,",
        "SGD, AdamW,",
        "RowSGD, WhitenedRows or",
    ):
        assert some in names  # of the classes that a part usually is
    assert not list(tmp_path.iterdir())


def test_a_device_without_memory_is_one_line(run, tmp_path, monkeypatch):
    def training_step(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(GLO, "training_step", training_step)
    status, line = run(*TINY, "--data.cache_on_device=true", "--max_epochs=1", "--output", tmp_path / "run")
    assert status == 1
    assert line.startswith("--data.batch_size 8: the device is out of memory, with 0.0 GB of images and a table of")


def test_auto_leaves_apples_gpu_alone(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.mps, "is_available", lambda: True)
    flags = [flag for flag in TINY if "accelerator" not in flag]
    assert run(*flags, "--max_epochs=1", "--output", tmp_path / "run") == (0, "")
    assert find_device("auto").type == "cpu"
    assert find_device("gpu").type == "mps"
