"""The same bits on aarch64: run under emulation (`python -m tests.aarch64`), by `make aarch64`, a short part of it with SHORT=1."""
