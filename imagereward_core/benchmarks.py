"""Moved: this name was documented, so whoever imports it is told the new one."""

raise ImportError("imagereward_core.benchmarks has moved: import imagereward_train.tables instead")
