"""Images by index: sources, the store of decoded pixels, the order of the data, the LightningDataModule."""

from glo_lightning.data.array_source import ArraySource
from glo_lightning.data.datamodule import LSUNDataModule

__all__ = ["ArraySource", "LSUNDataModule"]
