"""Small runs, computed of pictures that are made here."""

import dataclasses
import os

import numpy as np
from PIL import Image

from nplrp.batch.job import job_facts, open_job
from nplrp.batch.results import Results
from nplrp.batch.running import run
from nplrp.stream import Wanted
from tests.networks import small_vgg

#: A class called so must never become an element.
HOSTILE = "<img src=x onerror=document.title='owned'>"
NAMES = ("cat", "dog", "golden_retriever", HOSTILE, "owl")
#: Names of files that a page must bear.
BAD_NAMES = ("<script>document.title='owned'<", "quo\"te' &amp;", "ünïcødé 日本", "new\nline", "</script")


def named(model=None):
    """A small network whose classes have names."""
    return dataclasses.replace(model or small_vgg(1, 16, biases=0.05), classes=tuple((f"n{i}", name) for i, name in enumerate(NAMES)))


def pictures(folder, count, names=()):
    """Write pictures of stripes, and return their paths as text."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:20, :24] / 24
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for i in range(count):
        waves = np.stack([np.sin(8 * (a * x + b * y) + p) for a, b, p in rng.uniform(-3, 3, (3, 3))], axis=-1)
        name = (names[i] if i < len(names) else f"img{i:03}").replace("/", "∕")
        path = folder / f"{name}.png"
        Image.fromarray(((waves + 1) * 127).astype(np.uint8)).save(path)
        found.append(str(path))
    return found


def unreadable(folder, name="broken <b>.png"):
    """Write what is no picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"nothing")
    return str(folder / name)


def not_utf8(folder, picture):
    """Copy a picture to a name that isn't UTF-8."""
    name = os.fsdecode(os.fsencode(folder) + b"/not\xffutf8.png")
    with open(picture, "rb") as source, open(name, "wb") as target:  # noqa: PTH123
        target.write(source.read())
    return name


def made(out, model, images, composites=("zplus",), target=None, size=4, start=None, **kept):
    """Compute a run."""
    wanted = Wanted(tuple(composites), target, start=start)
    job = open_job(out, job_facts(model, wanted, **kept), images, size)
    run(job, out, model, wanted)
    return Results.open(out)
