"""Models inside other people's evaluation programs, each of which lives in an environment of its own.

exported.py     a model folder that answers conversations, by transformers alone
lmms_eval.py    model `neo_ov` of lmms-eval, found by its entry point
vlmevalkit.py   VLMEvalKit with our model registered
authors.py      how the authors' VLMEvalKit_ov asks, for it

They use nothing of this package but `neo_lightning.hf`. So it can be installed without its dependencies (`pip install
--no-deps`) beside theirs, which may want other versions: lmms-eval needs PyAV below 16.
"""
