"""The small world: tiny trained models that show score, curate and teach in minutes, offline."""
