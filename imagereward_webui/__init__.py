"""The WebUI extension: the only package that may import the host (`modules`) or gradio.

Importing it does nothing but define; `register.register_callbacks()` connects it to the host.
"""
