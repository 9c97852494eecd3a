"""The OpenAPI description."""

from __future__ import annotations

from typing import Any

from nplrp import __version__
from nplrp.model import Model
from nplrp.serve.settings import Settings


def openapi(name: str, model: Model, settings: Settings) -> dict[str, Any]:
    """Return the description of a server."""
    return {"openapi": "3.1.0", "info": {"title": "nplrp", "version": __version__}, "paths": {}}
