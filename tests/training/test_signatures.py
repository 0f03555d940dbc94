"""The flags that are read from the source are those of LightningCLI's parser, which is asked here."""

import ast
import re

import pytest
import yaml
from programs import call

from glo_lightning.training.signatures import GROUPS, TRAINER_DEFAULTS, arguments_of, find_unknown, help_parser


def test_help_has_every_flag_of_the_parser(run):
    assert run("--help") == (0, "")
    real = set(re.findall(r"^ +(?:-c CONFIG, |-h, )?(--[\w.]+)", run.output, re.MULTILINE))
    real = {flag for flag in real if not flag.endswith(".help") and flag[2:] not in GROUPS}
    ours = help_parser("")
    assert {flag for flag in ours._option_string_actions if flag[:2] == "--" and not flag.endswith(".help")} == real
    assert all(action.help for action in ours._actions)
    assert find_unknown(sorted(real)) is None


def test_help_has_the_defaults_of_the_parser(run, tmp_path):
    (tmp_path / "empty.yaml").write_text("{}")
    assert run("--config", tmp_path / "empty.yaml", "--print_config") == (0, "")
    real, compared = yaml.safe_load(run.output), 0
    for group in GROUPS:
        for name, (_, default, _) in arguments_of(group).items():
            if name in real[group] and re.match(r"""['"\w-][\w.'"-]*$""", default) and default[0] not in "GLRP":
                expected = TRAINER_DEFAULTS.get(name, ast.literal_eval(default))
                assert real[group][name] == expected
                compared += 1
    assert compared > 50


@pytest.mark.parametrize("words", [[], ["--prior"], ["-c"], ["--max_epochs", "1"]])
def test_what_names_nothing_wrong_goes_to_the_parser(words, monkeypatch):
    """The README's first command, ``python scripts/train.py``, has no argument at all."""
    parsed = []
    monkeypatch.setattr("glo_lightning.training.cli.main", lambda recipe, arguments: parsed.append(arguments))
    assert call("train", *words)[0] == 0
    assert parsed == [words]


@pytest.mark.parametrize(
    "words",
    [
        "--bathc_size 3",
        "--data.rot x",
        "--model.width=4",
        "--generator_lr 1",
        "--trainer.max_epoch 3",
        "--trainer.callback.x 3",
        "--checkpoint.on_bad_write skip",
        "--no_such_flag",
    ],
)
def test_a_mistyped_flag_is_told_without_torch_as_the_parser_tells_it(run, words):
    status, line = run(*words.split())
    assert (status, call("train", *words.split())) == (2, (2, "", [line]))


@pytest.mark.parametrize(
    "words",
    [
        "--max_epochs 3 --trainer.max_epochs=3 --precision bf16-mixed",
        "--logger+=CSVLogger --trainer.logger.save_dir d --callbacks.patience 3 --trainer.callbacks.help EarlyStopping",
        "--model.loss MSELoss --model.loss.anything 1 --model.optimizer.lr 1 --model.generator.help",
        "--model.generator.side 8 --model.loss.help LaplacianLoss --model.optimizer.nesterov true",
        "--model.generator.class_path my.Generator --model.generator.depth 3 --model.loss.init_args.levels 1",
        "--config my.yaml --model.generator.depth 3 --model.latent_optimizer.rate 1",
        "--data.source my.Source --data.source.argument 3 --data.seed 1 -c file --config=file --print_config=skip",
    ],
)
def test_flags_that_classes_may_have_are_left_to_the_parser(words):
    assert find_unknown(words.split()) is None


@pytest.mark.parametrize("word", ["--model.generator.widht=3", "--model.loss.levles=2"])
def test_arguments_of_the_usual_classes_are_known(word):
    assert find_unknown(["--max_epochs", "3", word]) == word


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "--config configs/foldr.yaml",
            "--config configs/foldr.yaml: there is no such file; did you mean configs/fold",
        ),
        ("-c nothing.yaml", "--config nothing.yaml: there is no such file; give a YAML file such as"),
        ("--resume runs/quick", "--resume runs/quick: contains no run itself. Did you mean runs/quick/version_0?"),
        ("--resume runs/quikc", "--resume runs/quikc: there is no such folder. Did you mean runs/quick?"),
        (
            "--resume exported",
            "--resume exported: is an exported run, which cannot be continued. Train anew by",
        ),
    ],
)
def test_a_recipe_or_a_run_that_is_none_names_one(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quick" / "version_0").mkdir(parents=True)
    (tmp_path / "runs" / "quick" / "version_0" / "config.yaml").touch()
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "generator.safetensors").touch()
    status, _, errors = call("train", *words.split())
    assert (status, len(errors)) == (2, 1)
    assert errors[0].startswith(line)


def test_a_recipe_that_ships_needs_no_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output, _ = call("train", "--config", "configs/d512.yaml", "--print_config")
    assert status == 0
    assert yaml.safe_load(output)["model"]["latent_dim"] == 512
