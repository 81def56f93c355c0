"""Scores of benchmarks -> one HTML page: intervals, categories, mistakes with their pictures, two models side by side.

pictures.py  a question's images and clips, small, beside the scores
page.py      scores.json -> scores.html
"""

from .page import render_scores
from .pictures import save_pictures

__all__ = ["render_scores", "save_pictures"]
