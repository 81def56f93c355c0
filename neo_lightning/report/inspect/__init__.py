"""Packs of a recipe -> one HTML page on which a person sees what the model sees, and why.

    NeoDataModule --collect--> Inspected --page--> inspect.html
                                 |  packs      strips, masks, texts, pictures  (rows.py, mask.py, words.py, pictures.py)
                                 |  mixture    shares and lengths by source    (overview.py)
                                 +- left out   by reason, with thumbnails      (left_out.py)

Everything about a pack comes from its PackedBatch, not from the samples: pictures are put together from the uint8
patches, positions and masks are the batch's own arrays. A mistake between shard and batch is then there to be seen.
"""

from neo_lightning.report.inspect.collect import Inspected, collect
from neo_lightning.report.inspect.page import render

__all__ = ["Inspected", "collect", "render"]
