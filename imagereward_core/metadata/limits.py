"""How much of a file is looked at. Beyond these limits reading ends with an error that names the file: a few bytes can
announce more than any memory holds.
"""

LARGEST_FILE = 256 << 20  # bytes of an image whose metadata are read or written; it is in memory a few times over then
LARGEST_TEXT = 64 << 20  # bytes that all compressed texts of one image may unfold to, together
LARGEST_CAPTION = 4 << 20  # bytes of a text file beside an image
LARGEST_JSON = 16 << 20  # characters of another program's JSON
MOST_PARTS = 1 << 18  # chunks, segments, blocks or boxes in one file
MOST_ITEMS = 1 << 16  # items of an AVIF file, and pieces they lie in
DEEPEST_GRAPH = 200  # links between a sampler and the text that it was given
