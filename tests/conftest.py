"""The order of the tests, and interrupts that reach the programs they start."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell without job control has its background commands ignore it,
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and their children too, which tests interrupt

#: Files that take the longest run first, so that at the end no process is left alone with one.
LONGEST = (
    "tests/test_same_bits.py",
    "tests/serve/test_start.py",
    "tests/test_zoo.py",
    "tests/kernels/test_same_bits.py",
    "tests/golden/test_diagnosis.py",
    "tests/serve/test_processes.py",
    "tests/jit/test_interrupts.py",
)


def pytest_collection_modifyitems(items):
    """Sort, keeping the order of all others."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(LONGEST)))
