"""The design space of native vision-language models, one small file an axis. `axes.py` is the table of what there is.

    axes.py          what a recipe's `model.design` may say; its default is NEO-ov
    refusals.py      combinations that make no sense, each with the reason
    rope.py          which axis and which base each pair of columns turns by
    patch.py         pixels to visual tokens without an encoder
    positions.py     what a patch embedding knows of a patch's place
    encoder.py       a vision transformer in place of the patch embedding
    layer.py         a layer without H/W heads, or with weights or low-rank updates of visual tokens' own

Masks, positions in a sequence and row tokens are arithmetic on a document: `neo_lightning.sequence` has them, as the
data needs them too. NEO-ov runs nothing of what is here.
"""
