"""Print the lowest versions that a wheel declares, as constraints for pip: ``numpy>=2.0`` becomes ``numpy==2.0``.

What tests and documentation are made with isn't what users need, and may be new.
"""

import re
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = wheel.read(metadata).decode().splitlines()
for line in lines:
    found = re.match(r"Requires-Dist: ([\w.-]+)(?:\[[\w,-]*\])?>=([\w.]+)", line)
    if found and not re.search(r"extra == .(test|dev|docs)\b", line):
        print(f"{found[1]}=={found[2]}")
