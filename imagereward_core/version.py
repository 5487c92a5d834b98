"""The version of the whole project: every package here is released together."""

VERSION = "0.1.0"
