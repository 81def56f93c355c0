"""What is in the shards, known before training: facts of every sample in a Parquet sidecar per shard.

    tar.py      a tar's bytes -> samples, checked to the last byte
    scan.py     one shard -> facts of its samples
    table.py    facts of many samples as columns
    sidecar.py  the file beside a shard; root.py: the file of all shards of a source
    tokens.py   tokens of the text, a file per tokenizer
    make.py     what is missing, in parallel, once for all ranks; check.py: what is left out and why
    source.py   the door: Source, open_source; adapted.py: a user's own class behind it

Nothing is decoded, extracted or unpickled.
"""

from neo_lightning.data.index.source import ShardSource, Source, iterate_samples, open_source, sample_ids

__all__ = ["ShardSource", "Source", "iterate_samples", "open_source", "sample_ids"]
