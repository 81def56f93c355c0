"""Shards -> packed batches. No model here, and no Lightning except in `datamodule`."""

import gc
import os

# A forked process never collects what it inherited: among the parent's garbage may be what only the parent's threads
# can take down. A worker was seen to wait forever in the destructor of a process group. It also saves the copies of all
# the pages that a collection would write to.
os.register_at_fork(after_in_child=gc.freeze)
