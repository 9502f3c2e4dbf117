"""Label formats: one module each, recognised by content, read into the tables of :mod:`storage.schemas`."""
