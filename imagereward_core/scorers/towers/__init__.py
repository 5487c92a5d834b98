"""Backbones that several scorers build on: sizes read from a config or from the file, networks from the libraries that
hosts bring.
"""
