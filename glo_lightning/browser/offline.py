"""The page as one file without a server: map, mixes, sliders and samples, computed in the reader's browser."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glo_lightning.browser.server import PAGE, require_packages
from glo_lightning.browser.session import Session
from glo_lightning.errors import InputError
from glo_lightning.explore.codes import codes_by_name
from glo_lightning.explore.flows import fitted_flow
from glo_lightning.explore.outputs import named_writing
from glo_lightning.explore.paths import INTERPOLATIONS
from glo_lightning.files import write_whole
from glo_lightning.priors.flow import Flow

log = logging.getLogger(__name__)

MAX_BYTES = 25_000_000  # of a page
LARGE = 500_000  # numbers; larger matrices are stored as bytes
RUNTIME = Path("node_modules") / "onnxruntime-web" / "dist"  # in the current folder, where npm installs
RUNTIME_FILES = {"runtime": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}
NPM = "npm install --no-save --no-package-lock onnxruntime-web@1.30.0"
TABS = ("mixer", "sliders", "legend", "map", "sampler", "filler")
MODULES = [f"{name}.js" for name in ("common", *TABS, "page", "flow", "offline")]
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; style-src 'unsafe-inline'; img-src data:"
)
LACKS = "This page is one file that works without a server. It lacks Fill in, uploads, and codes that stay saved"
LACKS_FLOW = ", and samples and mixes by the flow, because none was fitted before it was written"


def require_offline() -> None:
    """Raise InputError where a package that ``export_page`` needs is missing."""
    require_packages("export", "onnx", "onnxscript")
    for name in RUNTIME_FILES.values():
        if not (RUNTIME / name).is_file():
            raise InputError(
                "export", RUNTIME / name, f"was not found. In the current folder run {NPM} (npm comes with Node.js)."
            )


def export_page(session: Session, file: Path) -> None:
    """Write the page as one file: its script, the run, the generator and the runtime, compressed.

    Codes and weights are in half precision; of the training images the file has the map's thumbnails. A file that is
    there is replaced.

    Raises:
        InputError: for a page of more than 25 MB, a generator that ONNX cannot express, or a disk that fails.
    """
    model = session.run.model
    flow = fitted_flow(session.run) if session.has_flow() else None
    about, codes = _about(session, flow)
    parts = {
        "about": json.dumps(about).encode(),
        "codes": codes.cpu().half().numpy().tobytes(),
        "generator": as_onnx(model.generator, {"codes": model.latents.weight[:1].detach()}, "images"),
    } | {name: (RUNTIME / file_name).read_bytes() for name, file_name in RUNTIME_FILES.items()}
    if flow is not None:
        parts["flow"] = flow_as_onnx(flow)
    packed = {name: base64.b64encode(gzip.compress(part, mtime=0)).decode() for name, part in parts.items()}
    page = _page(packed).encode()
    sizes = ", ".join(f"{name} {len(part) / 1e6:.1f}" for name, part in packed.items())
    if len(page) > MAX_BYTES:
        why = f"the page has {len(page) / 1e6:.1f} MB ({sizes}), the limit is 25"
        raise InputError("export", file, f"{why}. Train a smaller generator.")
    with named_writing("export", file):
        write_whole(file.absolute(), lambda opened: opened.write(page))
    log.info("wrote %s, %.1f MB (%s)", file, len(page) / 1e6, sizes)


class GuidedVelocity(nn.Module):
    """A flow's velocity (B, D) at places (B, D) and a time (1,), with conditions (B, A) and guidance (1,)."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.network, self.early = flow.network, flow.early

    def forward(self, places: Tensor, time: Tensor, conditions: Tensor, guidance: Tensor) -> Tensor:
        times = time.expand(places.shape[0])  # len() would fix the batch size
        early = self.early(places, times)
        return early + guidance * (self.network(places, times, conditions) - early)


def flow_as_onnx(flow: Flow) -> bytes:
    """Convert a flow's velocity to ONNX; see ``GuidedVelocity`` and ``as_onnx``."""
    places = torch.zeros(2, len(flow.mean))
    conditions = torch.full((2, max(1, len(flow.counts))), -1)  # not used where there are no labels
    inputs = {"places": places, "time": torch.zeros(1), "conditions": conditions, "guidance": torch.ones(1)}
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes = {"places": batch, "time": None, "conditions": batch, "guidance": None}
    return as_onnx(GuidedVelocity(flow).cpu().eval(), inputs, "velocities", shapes)


def as_onnx(module: nn.Module, inputs: dict[str, Tensor], output: str, shapes: dict[str, Any] | None = None) -> bytes:
    """Convert a module to ONNX, from examples of its inputs by name, with weights in half precision.

    Large matrices have 8 bits a number and a scale for each row. Loading casts the weights to single precision.
    ``shapes`` are the dynamic ones, see ``torch.onnx.export``.
    """
    from onnx import TensorProto, helper, numpy_helper

    try:
        names: dict[str, Any] = {"input_names": [*inputs], "output_names": [output], "dynamic_shapes": shapes}
        program = torch.onnx.export(module, tuple(inputs.values()), dynamo=True, verbose=False, **names)
    except torch.onnx.errors.OnnxExporterError as error:
        remedy = f"cannot be written as ONNX ({str(error).strip().splitlines()[0]}). Use another."
        raise InputError("export", type(module).__name__, remedy) from error
    assert program is not None
    model = program.model_proto
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:  # those are small
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if values.ndim == 2 and values.size > LARGE:
            scale = np.maximum(np.abs(values).max(axis=1), np.finfo(values.dtype).tiny) / 127
            packed, suffix = np.round(values / scale[:, None]).astype(np.int8), "bytes"
            model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            node = helper.make_node("DequantizeLinear", [f"{name}.bytes", f"{name}.scale"], [name], axis=0)
        else:
            packed, suffix = values.astype(np.float16), "half"
            node = helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
        model.graph.node.insert(0, node)
        tensor.CopyFrom(numpy_helper.from_array(packed, f"{name}.{suffix}"))
    return model.SerializeToString()


def _about(session: Session, flow: Flow | None) -> tuple[dict[str, Any], Tensor]:
    """What offline.js asks for at the start, and the codes of its names: rows, mean, directions, labels' means."""
    session.map.add_tsne()
    run, rows = session.run, session.map.rows
    means = [name for name in session.directions if "=" in name]
    codes = [
        run.codes[rows],
        run.trained_codes.mean(0, keepdim=True),
        *(axis[None] for axis in session.directions.values()),
    ]
    if means:
        codes.append(codes_by_name(run, means))
    about = session.about() | {
        "tsne": session.map.places["tsne"],
        "means": means,
        "keys": [session.images.key(row) for row in rows.tolist()],
        "labels": [session.map.labels(name) for name in run.attributes.values] if run.attributes else [],
        "psnr": session.map.psnr() if session.images.present else [],
        "sheets": [_data_url(session.map.sheet(number)) for number in range(session.map.num_sheets)],
        "constraint": run.model.hparams["constraint"],
        "typed": str(session.path),
        "flags": list(session.commands.flags),
        "lacks": f"{LACKS}{'' if flow else LACKS_FLOW}. These need browse.py RUN.",
    }
    if flow is None:
        about |= {"paths": list(INTERPOLATIONS), "path": "arc"}
    else:
        counts = [numbers.tolist() for numbers in flow.counts]
        about["flow"] = {"mean": flow.mean.tolist(), "std": flow.std.tolist(), "counts": counts}
        about |= {"priors": ["flow"], "prior": "flow", "quick_priors": ["flow"]}
    return about, torch.cat(codes)


def _data_url(record: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(record).decode()}"


def _page(parts: dict[str, str]) -> str:
    """index.html with its style and its modules, joined into one, and the parts, in base64, as blocks of data."""
    style, *scripts = ((PAGE / name).read_text() for name in ("page.css", *MODULES))
    script = re.sub("^(import .*\n|export )", "", "\n".join(scripts), flags=re.MULTILINE)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    blocks = [f'<script type="application/octet-stream" id="{name}">{part}</script>' for name, part in parts.items()]
    page = (PAGE / "index.html").read_text()
    for tag, content in {
        '<link rel="stylesheet" href="page.css">': f"{policy}\n<style>\n{style}</style>",
        '<script src="page.js" type="module"></script>': f'<script type="module">\n{script}</script>',
        "</body>": "\n".join([*blocks, "</body>"]),
    }.items():
        before, after = page.split(tag)
        page = before + content + after
    return page
