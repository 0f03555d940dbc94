"""The flags of every command but train. It imports nothing slow, so that --help and typos are answered at once."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from glo_lightning.commands.parser import CommandParser, RunParser, description_of
from glo_lightning.errors import OneLineParser, did_you_mean

# As glo_lightning.encoding, priors.prior and explore.paths have them, which import torch.
STARTS = ["pca", "nearest", "mean", "random"]
PRIORS = ["flow", "gaussian", "diagonal", "mixture"]
PATHS = ["flow", "line", "arc"]
EDITED: dict[str, Any] = {"default": "line", "choices": ["flow", "line"], "help": "in a flow's noise, or among codes"}


def arithmetic() -> CommandParser:
    parser = RunParser("arithmetic", "arithmetic.png", "the picture")
    for term in "abc":
        parser.add_argument(f"--{term}", nargs="+", required=True, metavar="IMAGE", help="index, file or name=value")
    help_ = "factor of the difference a - b; with labels, 1.2 shows more of what is added"
    parser.add_argument("--strength", type=float, default=1.0, help=help_)
    parser.add_argument("--path", **EDITED)
    parser.add_picture_arguments()
    return parser


def browse() -> CommandParser:
    parser = RunParser("browse")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 8000 on)")
    parser.add_argument("--no_open", action="store_true", help="do not open the browser")
    parser.add_argument("--export", type=Path, metavar="FILE.html", help="write the page instead of serving it")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def build_lmdb() -> CommandParser:
    parser = CommandParser("build_lmdb")
    parser.add_argument("output", type=Path, help="the LMDB folder to make")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    help_ = "pixels of the shorter side; smaller images stay as they are"
    parser.add_argument("--size", type=int, default=256, help=help_)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--quality", type=int, default=90, help="of WebP, 1 to 100")
    kind.add_argument("--lossless", action="store_true", help="keeps every pixel; larger for photographs")
    return parser


def encode() -> CommandParser:
    parser = RunParser("encode", "encoded", "the output folder")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGES", help="image files, folders or LMDBs")
    help_ = "largest number of steps from the best start (default: 150, or 30 where an encoder was fitted)"
    parser.add_argument("--steps", type=int, help=help_)
    help_ = "LaplacianLoss, one of torch.nn's or the path of a class (default: the run's, of an operator MSELoss)"
    parser.add_argument("--loss", help=help_)
    parser.add_argument("--starts", nargs="+", default=STARTS, choices=STARTS, help="starts of the descent")
    parser.add_argument("--fit_encoder", action="store_true", help="fit an encoder to the run and save it there")
    help_ = "auto: the run's, unless it was fitted to another checkpoint; none: descent alone"
    parser.add_argument("--encoder", default="auto", choices=["auto", "none"], help=help_)
    parser.add_argument("--operator", help="how IMAGES were degraded: mask, down4, blur, grey or the path of a class")
    parser.add_argument("--operator_args", type=json_object, metavar="JSON", help="arguments of the operator")
    parser.add_argument("--mask", type=Path, help="--operator mask: an image of the run's size, black pixels missing")
    parser.add_argument("--prior_weight", type=float, default=0.0, help="weight of the flow's log-density of a code")
    help_ = "of the noise in IMAGES, white being 1; with more of it the prior counts more"
    parser.add_argument("--noise_sigma", type=float, default=0.05, help=help_)
    return parser


def json_object(text: str) -> dict[str, Any]:
    parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise ValueError
    return parsed


def evaluate() -> CommandParser:
    parser = RunParser("evaluate", output="evaluation.json", writes="the JSON file", flag="--json")
    parser.add_argument("--num", type=int, default=128, help="largest number of images of each kind")
    parser.add_argument("--starts", nargs="+", default=["pca", "mean", "random"], choices=STARTS, help="of encoding")
    parser.add_argument("--steps", type=int, default=150, help="steps of encoding")
    help_ = "of encoding: LaplacianLoss, one of torch.nn's or the path of a class (default: the run's)"
    parser.add_argument("--loss", help=help_)
    parser.add_argument("--features", help="efficientnet, inception, a TorchScript file or a class (default: none)")
    return parser


def export() -> CommandParser:
    parser = CommandParser("export")
    parser.add_argument("run", metavar="RUN", help="a run folder, or a checkpoint in it")
    parser.add_argument("output", metavar="OUTPUT", help="a folder that does not exist")
    parser.add_argument("--half", action="store_true", help="the generator in half precision: half the size")
    parser.add_argument("--push", metavar="user/repo", help="repository on the Hugging Face Hub to upload to")
    parser.add_argument("--public", action="store_true", help="everybody may see a new repository")
    return parser


def interpolate() -> CommandParser:
    parser = RunParser("interpolate", "interpolation.png", "the picture")
    parser.add_argument("images", nargs="+", metavar="START END", help="indices of training images, or image files")
    help_ = "one row for each (default: flow, or arc)"
    parser.add_argument("--path", nargs="+", choices=PATHS, help=help_)
    parser.add_argument("--weights", nargs="+", type=float, help="mix all the images by these into one")
    parser.add_argument("--steps", type=int, default=9, help="images in a row, both ends included")
    parser.add_argument("--sharpness", type=int, default=0, metavar="NUM", help="measure it over NUM random pairs")
    parser.add_picture_arguments(moving=True)
    return parser


def projector() -> CommandParser:
    parser = RunParser("projector", "projector", "the folder for TensorBoard")
    parser.add_argument("--num", type=int, default=2000, help="largest number of codes")
    return parser


def sample() -> CommandParser:
    parser = RunParser("sample", "samples.png", "the picture")
    parser.add_argument("--prior", help=f"{', '.join(PRIORS)} or the path of a class (default: flow, or mixture)")
    parser.add_argument("--n_components", type=int, help="number of the mixture's components (default: by BIC)")
    parser.add_argument("--num", type=int, default=24, help="number of samples; the picture shows 64 at most")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same samples")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: more typical, less different")
    parser.add_argument("--condition", nargs="+", default=[], metavar="NAME=VALUE", help="labels of all samples")
    help_ = "of a flow; 1 samples as learned, more is stricter (default: 1.5, or 2 without labels)"
    parser.add_argument("--guidance", type=float, help=help_)
    parser.add_argument("--pick", nargs="+", type=int, metavar="N", help="only these of the samples, counted from 1")
    help_ = "show these codes instead: saved ones (.npy), or of images by index, file, name=value"
    parser.add_argument("--decode", nargs="+", metavar="FILE.npy", help=help_)
    parser.add_picture_arguments()
    return parser


def sweep() -> CommandParser:
    parser = CommandParser("sweep", takes_others=True)
    parser.add_argument("--output", type=Path, default=Path("runs/sweep"), help="folder of the runs")
    parser.add_argument("--search", nargs="+", default=[], metavar="FLAG=VALUES", help="what to search, see above")
    parser.add_argument("--trials", type=int, default=12, help="number of trials, with those of earlier calls")
    parser.add_argument("--seeds", type=int, default=0, help="instead, train once for each of so many seeds")
    return parser


def walk() -> CommandParser:
    parser = RunParser("walk", "walk.png", "the picture")
    parser.add_argument("--image", help="start: the index of a training image, or a file (default: the mean code)")
    parser.add_argument("--path", **EDITED)
    parser.add_argument("--axes", type=int, default=6, help="number of axes, the longest first")
    parser.add_argument("--steps", type=int, default=9, help="images in a row; odd, to include the start")
    parser.add_argument("--reach", type=float, default=3.0, help="standard deviations to either side")
    help_ = "instead, one picture moved along all of these; DIRECTION is an axis' number or name=value"
    parser.add_argument("--move", nargs="+", metavar="DIRECTION:AMOUNT", help=help_)
    parser.add_picture_arguments(moving=True)
    return parser


COMMANDS = (arithmetic, browse, build_lmdb, encode, evaluate, export, interpolate, projector, sample, sweep, walk)
PARSERS = {command.__name__: command for command in COMMANDS}
NAMES = sorted([*PARSERS, "train"])


def complete(line: str) -> None:
    """Answer a shell that completes the line ``glo ...`` by argcomplete, and end."""
    import argcomplete

    from glo_lightning.training.signatures import help_parser

    typed = re.match(rf"\S+\s+({'|'.join(NAMES)})\s", line)
    if typed is None:
        parser: argparse.ArgumentParser = OneLineParser(None)
        parser.add_argument("command", choices=NAMES)
    else:
        os.environ["_ARGCOMPLETE"] = "2"  # the command itself is the first word
        parser = help_parser(None) if typed[1] == "train" else PARSERS[typed[1]]()
    argcomplete.autocomplete(parser, exit_method=sys.exit)


def run_command(name: str | None, arguments: list[str]) -> None:
    """Run the command of that name; by default the first argument is the name."""
    if "_ARGCOMPLETE" in os.environ:
        complete(os.environ["COMP_LINE"])
    if name is None:
        name, *arguments = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("glo COMMAND ..., of which glo COMMAND --help says more:\n")
        for command in NAMES:
            print(f"  {command:12} {description_of(command).partition(':')[0]}")
    elif name == "train":
        from glo_lightning.commands import train

        train.run(arguments)
    elif name in PARSERS:
        PARSERS[name]().call(arguments)
    else:
        sys.stderr.write(f"{name}: there is no such command; {did_you_mean(name, NAMES)}\n")
        raise SystemExit(2)
