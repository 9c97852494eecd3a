"""The command line: `python -m weights_tools from-keras|from-onnx|from-pytorch IN OUT.h5`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nplrp.errors import NplrpError, WeightsError
from nplrp.files.preparing import of_layers
from nplrp.images import RESAMPLE
from nplrp.model import Model
from nplrp.pipes import heedless
from nplrp.preprocessing import CHOICES, UNKNOWN, check_mode
from weights_tools.torchvision import ROWS
from weights_tools.write_hdf5 import check_output, write

_logger = logging.getLogger("weights_tools")

#: The longest side of a picture.
MAX_SIDE = 1 << 16
#: Exit codes: everything went well; bad input, in one line on stderr; stopped by Ctrl-C.
OK, BAD_INPUT, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file and return the exit code, whether or not somebody reads what is printed."""
    with heedless():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    arguments = make_parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("weights_tools: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("weights_tools", "nplrp")]
    try:
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
        check_output(arguments.output, arguments.force)
        model = _described(_read(arguments), arguments)
        write(model, arguments.output, arguments.input, arguments.command, arguments.force)
        print(f"{arguments.output}: {model.name}, {len(model.layers)} layers, input {' x '.join(map(str, model.input_shape))}", flush=True)
    except NplrpError as error:
        print(f"weights_tools: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("weights_tools: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    return OK


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m weights_tools", description="Turn trained weights into the HDF5 that nplrp and Keras read."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("input", type=Path, metavar="IN")
    common.add_argument("output", type=Path, metavar="OUT.h5")
    common.add_argument("--preprocessing", metavar=CHOICES, help="how a picture's values become the model's input")
    common.add_argument("--resample", choices=RESAMPLE, help="filter that pictures are resized with")
    common.add_argument(
        "--crop", action=argparse.BooleanOptionalAction, default=None, help="resize the shorter side and cut out the centre"
    )
    common.add_argument("--resize-to", type=int, metavar="PIXELS", help="with --crop: length of the shorter side before the cut")
    common.add_argument(
        "--classes", type=Path, metavar="FILE.json", help="what the outputs are called: a list, or index -> name, or name -> index"
    )
    common.add_argument("--force", action="store_true", help="replace OUT.h5 if it is there")
    commands.add_parser("from-keras", parents=[common], help="any file that Keras has written")
    sized = argparse.ArgumentParser(add_help=False)
    sized.add_argument(
        "--input-size", type=_side, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the pictures, where the file leaves it open"
    )
    onnx = commands.add_parser(
        "from-onnx", parents=[common, sized], help="a graph with one input; give --preprocessing where it takes pictures"
    )
    onnx.add_argument("--output-name", metavar="NAME", help="which of several outputs; what doesn't lead to it is left out")
    torch = commands.add_parser(
        "from-pytorch",
        parents=[common, sized],
        help="a state dict (.pth or .safetensors) of one of torchvision's networks",
        description=f"A state dict of one of torchvision's networks, with any number of classes: {', '.join(ROWS)}.",
    )
    torch.add_argument("--architecture", metavar="NAME", help="which of these it is, where its names and shapes don't tell")
    torch.add_argument(
        "--transform-input",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="torchvision's option of GoogLeNet and Inception v3: on, as with its own weights, if neither is given",
    )
    return parser


def _side(text: str) -> int:
    """Read the length of a side in pixels."""
    number = int(text)
    if not 1 <= number <= MAX_SIDE:
        raise ValueError
    return number


def read_classes(path: Path, outputs: int) -> tuple[tuple[str, str], ...]:
    """Read what the outputs are called.

    Parameters
    ----------
    path : Path
        JSON: ``[[id, name], ...]``, ``[name, ...]``, ``{"0": [id, name]}`` (as Keras's class index), ``{"0": name}``, or ``{name: 0}``
        (a Keras generator's `class_indices`).
    outputs : int

    Raises
    ------
    WeightsError
        If it is none of these, or has another number of classes.
    """
    try:
        entries: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: can't be read as JSON: {error}") from None
    if isinstance(entries, dict):
        if all(type(index) is int for index in entries.values()):
            entries = {str(index): name for name, index in entries.items()}
        entries = [entries.get(str(i)) for i in range(len(entries))]
    pairs = [(entry, entry) if isinstance(entry, str) else entry for entry in entries] if isinstance(entries, list) else []
    good = all(isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in pairs)
    if not good or len(pairs) != outputs:
        raise WeightsError(
            f"{path}: expected names for outputs 0 to {outputs - 1}, found {len(pairs)} {'of them' if good else 'entries'}; see --help"
        )
    return tuple((pair[0], pair[1]) for pair in pairs)


def _read(arguments: argparse.Namespace) -> Model:
    if arguments.command == "from-keras":
        from nplrp.files.weights import load

        return load(arguments.input, preprocessing=arguments.preprocessing)
    size = (arguments.input_size[0], arguments.input_size[1]) if arguments.input_size else None
    if arguments.command == "from-pytorch":
        from weights_tools.from_pytorch import from_pytorch

        return from_pytorch(arguments.input, arguments.architecture, size, arguments.transform_input)
    from weights_tools.from_onnx import from_onnx

    return from_onnx(arguments.input, size, arguments.output_name)


def _described(model: Model, arguments: argparse.Namespace) -> Model:
    """Put what the command line says about pictures and classes into the model."""
    if arguments.preprocessing is not None:
        check_mode(arguments.preprocessing)
    said = {"mode": arguments.preprocessing, "resample": arguments.resample, "crop": arguments.crop, "resize_to": arguments.resize_to}
    how = dataclasses.replace(model.preprocessing, **{key: value for key, value in said.items() if value is not None})
    if how.resize_to is not None and how.resize_to < 1:
        raise WeightsError(f"--resize-to {how.resize_to}: expected at least 1 pixel")
    if how.mode == UNKNOWN and of_layers(model) is None and len(model.input_shape) == 3 and model.input_shape[2] in (1, 3):
        _logger.warning(
            "nothing tells how pictures were prepared, and the new file won't either; give --preprocessing %s here or later", CHOICES
        )
    classes = model.classes if arguments.classes is None else read_classes(arguments.classes, model.output_shape[-1])
    return dataclasses.replace(model, preprocessing=how, classes=classes)


if __name__ == "__main__":
    sys.exit(main())
