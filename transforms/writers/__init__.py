"""Tables to label files: one module per form."""
