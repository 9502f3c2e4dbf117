"""Shards: files of many samples, ready to stream into training."""
