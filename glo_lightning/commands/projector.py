"""Puts codes and their images into TensorBoard's embedding projector: glo projector RUN [--num 2000]

The points are the codes of the first --num training images; TensorBoard colours them by label. Choose "Projector" in
TensorBoard's menu to see them.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from glo_lightning.data.attributes import Attributes
from glo_lightning.errors import check_range
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.outputs import output_folder
from glo_lightning.images import from_uint8, to_unit

SPRITE = 8192  # pixels: TensorBoard takes one picture of all images, at most this large

log = logging.getLogger("glo_lightning")


def metadata(rows: list[int], attributes: Attributes | None) -> tuple[list[str] | None, list[Any]]:
    """TensorBoard's columns: their names, if there are several, and of each row its number and its labels."""
    if attributes is None:
        return None, rows
    table = []
    for row, numbers in zip(rows, attributes.table[rows].tolist(), strict=True):
        labels = [names[n] if n >= 0 else "" for names, n in zip(attributes.values.values(), numbers, strict=True)]
        table.append([row, *(" ".join(label.split()) for label in labels)])  # a tab would end the column
    return ["row", *attributes.values], table


def run(options: argparse.Namespace) -> None:
    run = load_run(options.run, options.accelerator, options.root)
    most = (SPRITE // run.data.image_size) ** 2
    check_range("num", options.num, 1, most)
    images, index = run.data.dataset[range(min(options.num, run.data.num_images))]
    codes = run.codes[index.to(run.codes.device)].cpu()
    names, table = metadata(index.tolist(), run.attributes)
    thumbnails = to_unit(from_uint8(images))
    with output_folder(options.output, options.overwrite) as folder, SummaryWriter(folder) as writer:
        writer.add_images("images", thumbnails[:64], run.global_step)  # the other pages would show an empty run
        writer.add_embedding(codes, table, thumbnails, run.global_step, "codes", metadata_header=names)
    log.info("wrote %d codes to %s; see them with tensorboard --logdir %s", len(codes), options.output, options.output)
