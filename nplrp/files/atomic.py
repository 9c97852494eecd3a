"""Write a file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nplrp.errors import OutputError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file beside `path` to write to, and rename it to `path` if all went well.

    Raises
    ------
    OutputError
        If the file can't be written; the temporary one is removed and what was at `path` before is untouched.
    """
    given = Path(path)
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.parent / f".{target.name[:80]}.{os.urandom(8).hex()}"  # "/" has no name
    try:
        if target.is_dir():
            raise OutputError(f"{given}: is a folder; give the name of a file")
        # Made with the permissions of any new file (mkstemp's are private), and never over an existing one.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{given}: can't be written: {error.strerror or error}; free some space or choose another place") from error
