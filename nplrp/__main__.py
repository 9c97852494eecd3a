"""``python -m nplrp`` is the command ``nplrp``, of the Python that runs it."""

import sys

from nplrp.cli import main

sys.exit(main())
