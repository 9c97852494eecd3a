"""The command line: `python -m weights_tools import|from-keras|from-onnx|from-pytorch IN OUT.h5`, and what `nplrp import` runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nplrp.errors import OutputError, WeightsError, brief_reason
from nplrp.files import foreign
from nplrp.files.cut import telling
from nplrp.files.given import Given, add_flags, sides
from nplrp.files.plain import map_plain, read_text
from nplrp.files.preparing import of_layers
from nplrp.files.vgg import checked_activation
from nplrp.images import RESAMPLE
from nplrp.model import Model
from nplrp.pipes import heedless
from nplrp.preprocessing import CHOICES, UNKNOWN, check_mode
from nplrp.scores import scoring_of
from nplrp.usage import Parser, Spoken, failed
from weights_tools.torchvision import ROWS, Told
from weights_tools.write_hdf5 import check_output, write

_logger = logging.getLogger("weights_tools")

#: Exit codes: everything went well; bad input, in one line on stderr; stopped by Ctrl-C.
OK, BAD_INPUT, INTERRUPTED = 0, 2, 130


#: Options that only some kinds of files have a use for: `import` takes all.
USES = MappingProxyType(
    {
        "architecture": ("from-keras", "from-pytorch"),
        "config": ("from-keras",),
        "head": ("from-keras", "from-pytorch"),
        "head_activation": ("from-pytorch",),
        "kernels": ("from-keras",),
        "last_activation": ("from-keras", "from-pytorch"),
        "output_layer": ("from-keras",),
        "output_name": ("from-onnx",),
        "transform_input": ("from-pytorch",),
    }
)
KINDS = MappingProxyType({"from-keras": "a Keras file", "from-onnx": "an ONNX file", "from-pytorch": "a PyTorch or safetensors file"})


def main(argv: Sequence[str] | None = None, program: str = "weights_tools") -> int:
    """Convert one file and return the exit code, whether or not somebody reads what is printed.

    Parameters
    ----------
    argv : sequence of str or None
        The command line.
    program : str
        What messages begin with: ``"nplrp"`` where its command line handed over.
    """
    with heedless(), telling(program):
        return _run(argv, program)


def _run(argv: Sequence[str] | None, program: str) -> int:
    arguments = make_parser(program).parse_args(_sizes_joined(sys.argv[1:] if argv is None else argv))
    handler = Spoken(program, held=logging.INFO, timed=arguments.verbose)
    handler.setLevel(logging.ERROR if arguments.quiet else logging.NOTSET)
    loggers = [logging.getLogger(name) for name in ("weights_tools", "nplrp")]
    try:
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
        if arguments.command == "import":
            _choose(arguments)
        check_output(arguments.output, arguments.force)
        model = _described(_read(arguments), arguments)
        write(model, arguments.output, arguments.input, arguments.command, arguments.force)
        handler.let_go()
        if not arguments.quiet:
            shape = " x ".join(map(str, model.input_shape))
            print(f"{arguments.output}: {model.name}, {len(model.layers)} layers, input {shape}", flush=True)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return failed(program, error, arguments.verbose)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    return OK


def make_parser(program: str = "weights_tools") -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="python -m weights_tools" if program == "weights_tools" else program,
        description="Turn trained weights into the HDF5 that nplrp and Keras read.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    source, target = Parser(add_help=False), Parser(add_help=False)
    source.add_argument("input", type=Path, metavar="IN")
    source.add_argument("-q", "--quiet", action="store_true", help="errors only")
    source.add_argument("-v", "--verbose", action="store_true", help="also how long it takes, and where errors arise")
    target.add_argument("output", type=Path, metavar="OUT.h5")
    common = Parser(add_help=False)
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
    keras = Parser(add_help=False)
    add_flags(keras, computing=False)
    sized = Parser(add_help=False)
    sized.add_argument("--input-size", type=sides, metavar="HxW", help="of the pictures, where the file leaves it open")
    onnx = Parser(add_help=False)
    onnx.add_argument("--output-name", metavar="NAME", help="which of several outputs; what doesn't lead to it is left out")
    heads = Parser(add_help=False)
    heads.add_argument("--architecture", metavar="NAME", help="which of these it is, where its names and shapes don't tell")
    heads.add_argument("--head", choices=("flatten", "avg", "max"), help="how the pixels of a VGG's last image come to its dense layers")
    heads.add_argument("--last-activation", metavar="NAME", help="behind its outputs; softmax, or sigmoid of one, if not given")
    torch = Parser(add_help=False)
    torch.add_argument("--head-activation", metavar="NAME", help="between dense layers that aren't torchvision's; relu if not given")
    torch.add_argument(
        "--transform-input",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="torchvision's option of GoogLeNet and Inception v3: on, as with its own weights, if neither is given",
    )
    front = commands.add_parser(
        "import",
        parents=[source, common, keras, onnx, torch],
        help="any of these, told by the file itself",
        description="Convert a file of PyTorch (.pth, .pt, .safetensors), of ONNX, or any that Keras wrote; which, its contents tell.",
    )
    front.add_argument("output", type=Path, nargs="?", metavar="OUT.h5", help="default: IN's name with .h5, here")
    commands.add_parser("from-keras", parents=[source, target, common, keras], help="any file that Keras has written")
    commands.add_parser("from-onnx", parents=[source, target, common, sized, onnx], help="a graph with one input; needs --preprocessing")
    commands.add_parser(
        "from-pytorch",
        parents=[source, target, common, sized, heads, torch],
        help="a state dict (.pth or .safetensors) of one of torchvision's networks",
        description=f"A state dict of one of torchvision's networks, with any number of classes: {', '.join(ROWS)}.",
    )
    return parser


def _sizes_joined(argv: Sequence[str]) -> list[str]:
    """Return a command line on which `--input-size H W` is written HxW."""
    found: list[str] = []
    for word in argv:
        if word.isdecimal() and len(found) > 1 and found[-2] == "--input-size" and found[-1].isdecimal():
            found[-1] += f"x{word}"
        else:
            found.append(word)
    return found


def _choose(arguments: argparse.Namespace) -> None:
    """Find out what kind of file it is, and see that all options have a use for it."""
    path = arguments.input
    arguments.command = kind_of(path)
    if arguments.output is None:
        if arguments.command == "from-keras":
            _read(arguments)  # what isn't Keras's is named
            raise OutputError(f"{path} needs no import: nplrp reads it as it is; to write it in our layout all the same, give OUT.h5")
        arguments.output = Path(f"{path.stem}.h5")
    for option, kinds in USES.items():
        if getattr(arguments, option) is not None and arguments.command not in kinds:
            raise WeightsError(
                f"{path}: --{option.replace('_', '-')} is for {' and '.join(KINDS[kind] for kind in kinds)}, and this is "
                f"{KINDS[arguments.command]}; leave it out"
            )


def kind_of(path: Path) -> str:
    """Return which command a file is for, by its contents; what is nothing of the kind goes to Keras's reader, which names it."""
    try:
        data, _ = map_plain(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            return "from-pytorch" if any(name.endswith("/data.pkl") for name in names) else "from-keras"
    except (OSError, ValueError, zipfile.BadZipFile):
        data = memoryview(b"")
    what = (foreign.name_of(path, data) or ("", ""))[0]
    if any(word in what for word in ("PyTorch", "safetensors")) or (not what and path.suffix in (".pth", ".pt")):
        return "from-pytorch"
    return "from-onnx" if "ONNX" in what else "from-keras"


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
        entries: Any = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: can't be read as JSON: {brief_reason(error)}") from None
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


def _named_classes(path: Path, model: Model) -> tuple[tuple[str, str], ...]:
    """Read the classes of a model's outputs; of a single sigmoid unit both, or the one that it speaks for."""
    if scoring_of(model).binary:
        with suppress(WeightsError):
            return read_classes(path, 2)
    return read_classes(path, model.output_shape[-1])


def _read(arguments: argparse.Namespace) -> Model:
    size = arguments.input_size
    if arguments.command == "from-keras":
        fields: dict[str, Any] = {field.name: getattr(arguments, field.name, field.default) for field in dataclasses.fields(Given)}
        return Given(**fields | {"weights": str(arguments.input), "output": arguments.output_layer}).load()
    if arguments.command == "from-pytorch":
        from weights_tools.from_pytorch import from_pytorch

        for name in ("head_activation", "last_activation"):
            if getattr(arguments, name) is not None:
                setattr(arguments, name, checked_activation(getattr(arguments, name), name))
        told = Told(arguments.head, arguments.head_activation, arguments.last_activation)
        return from_pytorch(arguments.input, arguments.architecture, size, arguments.transform_input, told)
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
    classes = model.classes if arguments.classes is None else _named_classes(arguments.classes, model)
    return dataclasses.replace(model, preprocessing=how, classes=classes)


if __name__ == "__main__":
    sys.exit(main())
