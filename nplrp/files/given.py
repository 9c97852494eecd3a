"""The model that a command line names: its weights, and what else says which network they are of."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nplrp.model import Model


@dataclass(frozen=True)
class Given:
    """What `nplrp.load` is called with, before anything is read; None where nothing is given.

    Attributes
    ----------
    weights : str or None
        A path; None is looked for (`nplrp.find_weights`).
    output, config, architecture : str or None
        As of `nplrp.load`.
    """

    weights: str | None = None
    output: str | None = None
    config: str | None = None
    architecture: str | None = None

    def load(self) -> Model:
        """Return the model.

        Raises
        ------
        WeightsError
        """
        from nplrp.files.fetch import find_weights
        from nplrp.files.weights import load

        return load(find_weights(self.weights), output=self.output, config=self.config, architecture=self.architecture)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which network the weights are of."""
    parser.add_argument("--output-layer", metavar="LAYER", help="which output, of a model with several: the name of its layer")
    parser.add_argument("--config", metavar="FILE.json", help="configuration of weights that carry none, as to_json() writes it")
    parser.add_argument(
        "--architecture", metavar="NAME", help="network of keras.applications that weights without one are of: resnet50, ..."
    )


def given(arguments: argparse.Namespace) -> Given:
    """Return what a command line gives."""
    return Given(arguments.weights, arguments.output_layer, arguments.config, arguments.architecture)
