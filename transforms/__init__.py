"""Data to data: label formats, image headers, normalising, rendered scenes."""
