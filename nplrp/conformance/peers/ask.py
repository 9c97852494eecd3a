"""Zennit, Captum, iNNvestigate or LXT answer the exported suite: python ask.py LIBRARY IN OUT, in an interpreter that has the library.

Each case runs as a network of one layer, which the golden adapters build as a user of the library would. What a library doesn't have
is refused, in one line.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "golden" / "backends"))

import numpy as np
from exchange import Job, command


class Case(Job):
    """A case as an exchange folder: its last layer is what is asked, the others give its inputs."""

    def __init__(self, folder):
        super().__init__(folder)
        self.layers = self.layers[-1:]

    def _score(self):
        return []  # an activation is a layer, here too where it stands last


def zennit(job):
    """Return what a layer gives to its inputs under Zennit's rule."""
    import zennit_backend as backend

    graph = backend.Graph(job.layers, job.dtype, backend.join)
    with backend.composite(job, graph).context(graph):
        return backend.isolated(job, graph)[2]


def captum(job):
    """Return what a layer gives to its inputs under Captum's rule."""
    import captum_backend

    return captum_backend.isolated(job)[2]


def innvestigate(job):
    """Return what a layer gives to its inputs under iNNvestigate's rule."""
    import innvestigate_backend as backend

    backend.keras.backend.set_floatx(job.dtype.name)
    return backend.isolated(job)[2]


def lxt(job):
    """Return what a layer gives to its inputs under LXT's explicit rules."""
    import lxt_rules

    return lxt_rules.isolated(job)


def main(library, source, target):
    """Answer every case, or say why not."""
    answer, source, target = globals()[library], Path(source), Path(target)
    importlib.import_module("lxt_rules" if library == "lxt" else f"{library}_backend")  # that it isn't there is no refusal
    for name in (source / "cases.txt").read_text("utf-8").splitlines():
        try:
            job = Case(source / name)
            found = answer(job)
            layer = job.layers[0]
            flat = np.concatenate([found[layer.name, each].reshape(-1) for each in layer.inputs])
            (target / f"{name}.bin").write_bytes(flat.astype(job.dtype.newbyteorder("<")).tobytes())
        except (Exception, SystemExit) as error:  # whatever a library raises is its answer
            said = str(error).strip().splitlines() or [""]
            text = said[0].removeprefix("layer: ") if isinstance(error, SystemExit) else f"{type(error).__name__}: {said[0]}"
            (target / f"{name}.txt").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    command(main)
