"""Searches hyperparameters by val/psnr, or repeats a recipe with several seeds:

    glo sweep --config configs/quickstart.yaml --data.holdout 64 --max_epochs 3 --trials 12 \\
        --search model.latent_dim=32,64,100 'model.optimizer.lr=log(0.0003, 0.01)'
    glo sweep --config configs/quickstart.yaml --data.holdout 64 --seeds 3

Optuna chooses the trials and stops poor ones early. The same command again continues: a trial that was cut off is
resumed. OUTPUT contains the runs, study.db (for optuna-dashboard) and best.yaml, the best configuration. All other
flags are those of glo train.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from glo_lightning.errors import InputError, check_at_least
from glo_lightning.locks import Lock

Suggest = Callable[[Any], Any]  # takes a value from an Optuna trial
ENDS = {0: "COMPLETE", 128 + signal.SIGTERM: "PRUNED"}  # a run's exit status, and the state of its trial


class WrongInput(Exception):
    """The line of a run that could not start."""


def read_search(text: str) -> tuple[str, Suggest]:
    """Reads ``flag=a,b,c``, ``flag=log(low, high)``, ``flag=uniform(low, high)`` or ``flag=int(low, high)``.

    Returns:
        The flag, and what takes its value from a trial.
    """
    flag, equals, values = text.partition("=")
    if not (flag and equals and values):
        remedy = "is not FLAG=VALUES. Give model.latent_dim=32,64 or model.optimizer.lr=log(1e-4, 1), say."
        raise InputError("search", text, remedy)
    bounds = re.fullmatch(r"(log|uniform|int)\((.+),(.+)\)", values)
    if bounds is None and re.match(r"(log|uniform|int)\(", values):
        raise InputError("search", text, "is no range. Give two bounds, as in log(0.001, 1).")
    if bounds is None:
        choices = [yaml.safe_load(value) for value in values.split(",")]
        return flag, lambda trial: trial.suggest_categorical(flag, choices)
    kind = bounds[1]
    try:
        low, high = float(bounds[2]), float(bounds[3])
    except ValueError as error:
        raise InputError("search", text, "has bounds that are no numbers. Give two numbers.") from error
    if not low < high or (kind == "log" and low <= 0):
        raise InputError("search", text, "is no range. Give the smaller bound first, and one above 0 for log.")
    if kind == "int":
        return flag, lambda trial: trial.suggest_int(flag, int(low), int(high))
    return flag, lambda trial: trial.suggest_float(flag, low, high, log=kind == "log")


def read_metrics(folder: Path) -> dict[str, float]:
    file = folder / "metrics.json"
    return json.loads(file.read_text()) if file.exists() else {}


def train(flags: Sequence[str], folder: Path, keep: Callable[[dict[str, float]], bool]) -> int:
    """Trains into a folder, or continues there, until the end or until ``keep(metrics)`` of an epoch is false.

    Returns:
        The exit status. Wrong input ends the sweep with the run's own line.
    """
    where = ["--resume", str(folder)] if (folder / "config.yaml").exists() else [*flags, "--output", str(folder)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with open(log, "w") as lines:
        command = [sys.executable, "-m", "glo_lightning", "train", *where]
        process = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT)
        epoch = 0
        try:
            while process.poll() is None:
                time.sleep(0.2)
                metrics = read_metrics(folder)
                if metrics.get("epoch", 0) > epoch:
                    epoch = int(metrics["epoch"])
                    if not keep(metrics):
                        process.terminate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            print("\nstopped; the same command continues", file=sys.stderr)
            raise SystemExit(130) from None
    if process.returncode == 2:
        line = log.read_text().strip().splitlines()[-1]
        log.unlink()
        raise WrongInput(line)
    return process.returncode


def held_out_psnr(metrics: dict[str, float], folder: Path) -> float:
    """The val/psnr of an epoch, NaN of one that is not validated. Raises InputError if no images are held out."""
    data = yaml.safe_load((folder / "config.yaml").read_text())["data"]
    if not data["holdout"] and data["holdout_split"] is None:
        raise InputError("--data.holdout", 0, "leaves no images to measure val/psnr on. Give --data.holdout 64, say.")
    return metrics.get("val/psnr", math.nan)


def report_epoch(trial: Any, folder: Path, metrics: dict[str, float]) -> bool:
    """Reports an epoch to a trial; returns whether the trial goes on."""
    psnr = held_out_psnr(metrics, folder)
    if math.isnan(psnr):
        return True
    trial.report(psnr, int(metrics["epoch"]))
    return not trial.should_prune()


def search(output: Path, suggestions: dict[str, Suggest], num_trials: int, flags: Sequence[str]) -> None:
    """Runs trials until there are ``num_trials``, and prints them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{output.absolute()}/study.db",
        study_name="sweep",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        load_if_exists=True,
    )
    State = optuna.trial.TrialState
    for cut_off in study.get_trials(states=[State.RUNNING]):
        study.tell(cut_off.number, state=State.FAIL)
        study.enqueue_trial(cut_off.params, {"folder": cut_off.user_attrs["folder"]})
    while len(study.get_trials(states=[State.COMPLETE, State.PRUNED])) < num_trials:
        trial = study.ask()
        values = {flag: suggest(trial) for flag, suggest in suggestions.items()}
        folder = Path(trial.user_attrs.get("folder", output / f"trial_{trial.number:03d}"))
        trial.set_user_attr("folder", str(folder))
        keep = functools.partial(report_epoch, trial, folder)
        try:
            status = train([*flags, *(f"--{flag}={value}" for flag, value in values.items())], folder, keep)
            psnr = held_out_psnr(read_metrics(folder), folder) if status in ENDS else math.nan
        except (WrongInput, InputError):
            study.tell(trial, state=State.FAIL)
            raise
        state = State[ENDS.get(status, "FAIL")]
        study.tell(trial, psnr if state == State.COMPLETE else None, state)
        print(f"{folder.name} {state.name.lower()} val/psnr {psnr:.2f} {values}")
        if state == State.FAIL:
            raise InputError("trials", num_trials, f"a run ended with status {status}, see {folder}.log.")
    best = study.best_trial
    shutil.copy(Path(best.user_attrs["folder"]) / "config.yaml", output / "best.yaml")
    print(f"best: {best.user_attrs['folder']} val/psnr {best.value:.2f} {best.params}, as {output / 'best.yaml'}")


def repeat(output: Path, seeds: int, flags: Sequence[str]) -> None:
    """Trains once for each seed, and prints the mean and spread of the figures."""
    runs = []
    for seed in range(seeds):
        folder = output / f"seed_{seed}"
        if train([*flags, f"--seed_everything={seed}"], folder, lambda _: True):
            raise InputError("seeds", seeds, f"a run failed, see {folder}.log. The same command continues.")
        runs.append(read_metrics(folder))
    for key in ("train/loss_epoch", "val/psnr", "train/images_per_second"):
        values = [metrics[key] for metrics in runs if key in metrics]
        if len(values) == seeds:
            spread = statistics.stdev(values) if seeds > 1 else float("nan")
            print(
                f"{key} {statistics.mean(values):.4g} ± {spread:.2g} ({', '.join(f'{value:.4g}' for value in values)})"
            )


def run(options: argparse.Namespace) -> None:
    if bool(options.search) == bool(options.seeds):
        raise InputError("seeds", options.seeds, "Give either --seeds or --search.")
    check_at_least("seeds", options.seeds, 0)
    check_at_least("trials", options.trials, 1)
    suggestions = dict(read_search(text) for text in options.search)
    options.output.mkdir(parents=True, exist_ok=True)
    lock = Lock(options.output / ".lock")
    if not lock.acquire():
        raise InputError("output", options.output, f"is in use by {lock.holder()}. Give another folder.")
    try:
        if options.seeds:
            repeat(options.output, options.seeds, options.flags)
        else:
            search(options.output, suggestions, options.trials, options.flags)
    except ImportError as error:
        remedy = f"needs the package {error.name}. Install it with pip install -e '.[sweep]'."
        raise InputError("search", " ".join(options.search), remedy) from error
    except WrongInput as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error
    finally:
        lock.release()
