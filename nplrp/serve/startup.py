"""What has to hold before a server is ready: the weights' hash, kernels that compute the right bits, and a warm model."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from nplrp import explanation
from nplrp.images import import_decoders
from nplrp.serve.answers import versions
from nplrp.serve.problems import ServeError
from nplrp.serve.selfcheck import check
from nplrp.serve.settings import Settings

if TYPE_CHECKING:
    from nplrp.serve.engine import Engine

log = logging.getLogger("nplrp.serve")

#: Explained twice with the real shape, so that the first request finds memory and all prepared weights.
WARM = "notebook"


def prepare(engine: Engine, settings: Settings) -> None:
    """Check the weights and the kernels, and explain twice.

    Raises
    ------
    ServeError
        If the weights have another hash than --sha256, or the kernels compute other bits than those that are known to be right.
    """
    model, begun = engine.model, time.monotonic()
    found = model.fresh_hash() if settings.sha256 else model.content_hash
    if settings.sha256 and found != settings.sha256:
        raise ServeError(f"{model.source or model.name}: its content hash is {found}, --sha256 is {settings.sha256}: wrong file?")
    log.info("weights %s... %.1f s", found[:12], time.monotonic() - begun)
    check(settings.dtypes)
    log.info("kernels reproduce the golden case %.1f s", time.monotonic() - begun)
    for _ in range(2):
        explanation.explain(model, np.zeros((1, *model.input_shape), np.float32), WARM)
    versions()  # read from files, which there may be no descriptor for later
    import_decoders()
    log.info("warm %.1f s", time.monotonic() - begun)
