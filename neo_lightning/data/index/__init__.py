"""What is in the shards, known before training: facts of every sample in a Parquet sidecar per shard.

tar.py      a tar's bytes -> samples, checked to the last byte
scan.py     one shard -> facts of its samples
table.py    facts of many samples as columns
sidecar.py  the file beside a shard
tokens.py   tokens of the text, a file per tokenizer
make.py     all shards of a source: what is missing, in parallel, once for all ranks
source.py   the door: Source, open_source
"""

from neo_lightning.data.index.source import ShardSource, Source, iterate_samples, open_source, sample_ids

__all__ = ["ShardSource", "Source", "iterate_samples", "open_source", "sample_ids"]
