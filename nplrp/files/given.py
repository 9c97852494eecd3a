"""The model that a command line names: its weights, and what else says which network they are of."""

from __future__ import annotations

import argparse
import logging
import re
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nplrp.model import Model

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """What `nplrp.load` is called with, before anything is read; None where nothing is given.

    Attributes
    ----------
    weights : str or None
        A path; None is looked for (`nplrp.find_weights`).
    output, config, architecture, preprocessing, head, last_activation, kernels : str or None
        As of `nplrp.load`.
    input_size : (height, width) or None
    mmap : bool
        As of `nplrp.load`.
    """

    weights: str | None = None
    output: str | None = None
    config: str | None = None
    architecture: str | None = None
    preprocessing: str | None = None
    head: str | None = None
    last_activation: str | None = None
    kernels: str | None = None
    input_size: tuple[int, int] | None = None
    mmap: bool = True

    def load(self) -> Model:
        """Return the model.

        Raises
        ------
        WeightsError
        """
        from nplrp.files.fetch import find_weights
        from nplrp.files.weights import load

        begun = time.perf_counter()
        said = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "weights"}
        model = load(find_weights(self.weights), **said)
        _logger.debug("%s: %s, %d layers, read in %.2f s", model.source, model.name, len(model.layers), time.perf_counter() - begun)
        return model


def add_flags(parser: argparse.ArgumentParser, computing: bool = True) -> None:
    """Add the flags that say which network the weights are of; if it will compute, also how pictures were prepared and the file is read."""
    parser.add_argument("--output-layer", metavar="LAYER", help="which output, of a model with several: the name of its layer")
    parser.add_argument("--config", metavar="FILE.json", help="configuration of weights that carry none, as to_json() writes it")
    parser.add_argument(
        "--architecture", metavar="NAME", help="network of keras.applications that weights without one are of: resnet50, ..."
    )
    if computing:
        parser.add_argument(
            "--preprocessing",
            metavar="MODE",
            help="how pictures were prepared: caffe, tf, torch, unit (x / 255), none (0 to 255), or MEAN,STD; default: as the file tells",
        )
        parser.add_argument(
            "--no-mmap",
            dest="mmap",
            action="store_false",
            help="read the weights into memory instead of mapping their file, which others may change then",
        )
    parser.add_argument(
        "--head", choices=("flatten", "avg", "max"), help="what stands before the dense layers of a VGG's weights without configuration"
    )
    parser.add_argument("--last-activation", metavar="NAME", help="of weights without configuration: softmax, sigmoid, linear, ...")
    parser.add_argument("--kernels", choices=("theano", "tensorflow"), help="whose kernels a file of Keras 1 has, which doesn't say it")
    parser.add_argument("--input-size", metavar="H[xW]", type=sides, help="of an input whose sides the file leaves open (default 224x224)")


def given(arguments: argparse.Namespace) -> Given:
    """Return what a command line gives."""
    flags = {field.name: "output_layer" if field.name == "output" else field.name for field in fields(Given)}
    return Given(**{name: getattr(arguments, flag) for name, flag in flags.items()})


def sides(text: str) -> tuple[int, int]:
    """Read H or HxW."""
    found = re.fullmatch(r"([1-9]\d{0,5})(?:\s*[x,]\s*([1-9]\d{0,5}))?", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected a number of pixels, or HxW such as 150x200")
    return int(found[1]), int(found[2] or found[1])
