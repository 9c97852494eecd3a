"""How kernels are compiled, kept, and called: everything but their arithmetic, which is in `nplrp.kernels`.

=============== ============================================================================================
`dispatcher`    `kernel` and `shared_kernel`: from a Python function to compiled code for its arguments' types
`arguments`     how arguments lie in the block of memory that compiled code reads them from
`compiler`      by way of Numba to object code that needs neither Numba nor Python
`lazy`          what kernels take from Numba, which is imported only to compile
`target`        the machine that is compiled for, and the linker
`cache`         object code on disk, under all that it depends on
`dependencies`  the modules that a kernel's source imports
`code`          compiled code in memory, and its call by one thread or by a team
`team`          OpenMP's threads, or a crew
`crew`          threads for one kernel, where there is no OpenMP
`queue`         kernels that wait, to be run one after the other by one team, and what was run to be run again
`sanitizer`     a debug mode that finds who uses arrays of kernels that wait
`barrier`       the loop in which that team runs them
`ahead`         a worker process that compiles beside this one
`bus`           a last word where a mapped file was cut
=============== ============================================================================================
"""

from nplrp.jit.dispatcher import DISABLED, frozen, in_threads, kernel, shared_kernel
from nplrp.jit.queue import Queue, at_once, checked_queues, is_queueable, queueable
from nplrp.jit.team import exclusive, threads

__all__ = [
    "DISABLED",
    "Queue",
    "at_once",
    "checked_queues",
    "exclusive",
    "frozen",
    "in_threads",
    "is_queueable",
    "kernel",
    "queueable",
    "shared_kernel",
    "threads",
]
