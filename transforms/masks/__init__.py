"""Masks from boxes: labelers of several kinds behind one interface, and what they share."""
