"""The project's one named logger. No handlers are attached here: the host or the command line decides."""

import logging

logger = logging.getLogger("imagereward")
