"""Names of the places in an image file where programs keep text, the same for every container."""

PARAMETERS = "parameters"  # PNG's text chunks have their own keyword for a name; this one holds infotext
USER_COMMENT = "Exif.UserComment"
DESCRIPTION, MAKE, MODEL, SOFTWARE = "Exif.ImageDescription", "Exif.Make", "Exif.Model", "Exif.Software"
COMMENT = "comment block"  # of GIF and JPEG
INFOTEXT = (PARAMETERS, USER_COMMENT, COMMENT)  # where web UIs look for infotext, in this order

# Keywords of PNG text chunks that some program keeps a prompt under, or that say which program it was.
PNG_KEYWORDS = frozenset(
    (
        PARAMETERS,
        "prompt",
        "workflow",
        "Title",
        "Description",
        "Software",
        "Source",
        "Comment",
        "Dream",
        "sd-metadata",
        "invokeai_metadata",
        "invokeai_graph",
        "Prompt",
        "seed",
        "Seed",
        "use_stable_diffusion_model",
        "Stable Diffusion model",
    )
)
