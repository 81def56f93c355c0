"""Functions of the task, called by lmms-eval."""

from PIL import Image


def doc_to_visual(doc):
    return [Image.open(path) for path in doc["images"]] + doc["videos"]


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    media = [{"type": "image", "url": Image.open(path)} for path in doc["images"]]
    media += [{"type": "video", "url": path} for path in doc["videos"]]
    return [{"role": "user", "content": [*media, {"type": "text", "text": doc["question"]}]}]


def process_results(doc, results):
    return {"exact_match": float(results[0].split() == doc["answer"].split())}
