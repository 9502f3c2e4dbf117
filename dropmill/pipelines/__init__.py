"""Pipelines: what a change in the lake sets going, step by step."""
