"""Moved: this name was documented, so whoever imports it is told the new one."""

raise ImportError("imagereward_core.cli has moved: import imagereward_cli.main instead")
