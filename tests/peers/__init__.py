"""Scripts that run other implementations of LRP, each in an environment of its own; `tests/test_peers.py` calls them."""
