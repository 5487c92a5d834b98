"""The package's one named logger. No handlers are attached here: the command line decides."""

import logging

logger = logging.getLogger("refl")
