"""Image models on disk: single files and diffusers folders, in and out. Files are read by imagereward_core.weights."""
