"""Speed and size beside peers: ``python -m benchmarks [name …]``."""
