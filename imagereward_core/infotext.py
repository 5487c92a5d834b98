"""Moved: this name was documented, so whoever imports it is told the new one."""

raise ImportError("imagereward_core.infotext has moved: import imagereward_core.metadata.infotext instead")
