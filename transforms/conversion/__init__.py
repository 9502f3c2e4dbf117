"""Label files to label files, without a lake: convert, merge and slice."""
