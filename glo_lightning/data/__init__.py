"""Images by index: sources, the cache of decoded pixels, the order of the data, the LightningDataModule."""

from glo_lightning.data.datamodule import LSUNDataModule
from glo_lightning.data.sources.arrays import ArraySource

__all__ = ["ArraySource", "LSUNDataModule"]
