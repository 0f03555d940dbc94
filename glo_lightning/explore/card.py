"""The model card of an exported run: what it is, its pictures, its figures, and the lines that use it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml

from glo_lightning.explore.codes import generate
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.generator import code_side
from glo_lightning.images import from_uint8, psnr
from glo_lightning.pca import fit_comparable_pca
from glo_lightning.priors.fitting import fit_prior
from glo_lightning.priors.prior import make_prior, sample_codes

MAX_MEASURED = 4096  # training images
SHOWN = 24
CARD = """---
library_name: glo_lightning
pipeline_tag: unconditional-image-generation
tags: [glo, image-generation, pytorch-lightning]
---

# {name}

![Training images and their reconstructions](pictures/reconstructions.png)

*Above: training images. Below: what the generator makes of their codes.*

![Samples](pictures/samples.png)

*New images from a {prior} fitted to the codes.*

A GLO (Generative Latent Optimization, [Bojanowski et al., 2018](https://arxiv.org/abs/1707.05776)), trained with
glo_lightning on {num_images} images of {side}x{side} pixels. Every image has a code of {latent_dim} numbers.

## Use it

```python
from glo_lightning import GLO

model = GLO.from_pretrained("{name}").eval()
images = model(model.latents.weight[:8])  # (8, {channels}, {side}, {side}) in [-1, 1]
```

`python scripts/sample.py FOLDER` and all other commands take the folder as a run.

## Figures

| | |
|---|---|
{figures}
`python scripts/evaluate.py FOLDER` measures them again.

## Data

{data}

## Recipe

`recipe.yaml` repeats the run: `python scripts/train.py --config recipe.yaml`.

```yaml
{recipe}```
"""
SHIPPED_FACES = "The cartoon faces that ship with glo_lightning, drawn from Pablo Stanley's Open Peeps, CC0 1.0."
OTHER_DATA = "*Say here what the images are, where they are from, and under which licence.* They are not in here."


@torch.no_grad()
def write_card(run: TrainedRun, folder: Path, name: str) -> None:
    """Write ``README.md`` and its ``pictures/`` of a run into the folder that becomes its export of that name."""
    pictures = folder / "pictures"
    pictures.mkdir()
    model, rows = run.model, run.rows[:MAX_MEASURED]
    images = run.images(rows.tolist())
    targets, reconstructions = from_uint8(images), generate(model, run.codes[rows]).cpu()
    half = SHOWN // 2
    pairs = zip(targets[:SHOWN].split(half), reconstructions[:SHOWN].split(half), strict=True)
    picture([list(row) for pair in pairs for row in pair]).save(pictures / "reconstructions.png")
    prior = "flow" if any((folder / "priors").glob("flow-*")) else "gaussian"
    fitted = fit_prior(make_prior(prior), run.trained_codes, run.trained_attributes, folder)
    codes = sample_codes(fitted, run.trained_codes, SHOWN, model.project)
    picture([list(row) for row in generate(model, codes).cpu().split(half)]).save(pictures / "samples.png")
    measured = {f"PSNR of {len(images)} training images": f"{float(psnr(reconstructions, targets)):.2f} dB"}
    pca = fit_comparable_pca(images[: model.n_pca], codes.shape[1], code_side(model.generator))
    if pca is not None:
        measured[f"{pca.title} with as many dimensions"] = f"{float(psnr(pca.reconstruct(targets), targets)):.2f} dB"
    measured |= _figures(run)
    card = CARD.format(
        name=name,
        prior=prior,
        num_images=len(run.codes),
        side=model.hparams["image_size"],
        channels=model.hparams["channels"],
        latent_dim=codes.shape[1],
        figures="".join(f"| {title} | {value} |\n" for title, value in measured.items()),
        data=OTHER_DATA if run.config["data"].get("root") else SHIPPED_FACES,
        recipe=yaml.safe_dump({"model": run.config["model"]}, sort_keys=False),
    )
    (folder / "README.md").write_text(card)


def _figures(run: TrainedRun) -> dict[str, str]:
    """What the run's last epoch measured, by title."""
    file = Path(run.folder or "") / "metrics.json"
    if not file.is_file():
        return {}
    metrics = json.loads(file.read_text())
    titles = {"epoch": "epochs", "seconds": "seconds of training", "train/loss_epoch": "loss of the last epoch"}
    titles["val/psnr"] = "PSNR of held-out images, encoded, dB"
    return {title: f"{metrics[key]:.4g}" for key, title in titles.items() if key in metrics}
