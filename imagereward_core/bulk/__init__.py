"""Scoring what a manifest lists, up to hundreds of millions of images: rows come in one by one, results go out one by
one, nothing is held for all of them, and a run that was cut off goes on where it stopped.
"""

from .results import FORMS, Results, form_of
from .rows import Row, read_rows
from .scoring import Scored, score_rows

__all__ = ["FORMS", "Results", "Row", "Scored", "form_of", "read_rows", "score_rows"]
