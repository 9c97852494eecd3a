"""Tables, the results' JSON, and facts about the machine that identify nobody."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path


def print_table(title, columns, rows):
    """Print rows as a Markdown table; numbers with three significant digits, None as a dash."""
    cells = [[_text(row.get(key)) for key in columns.values()] for row in rows]
    widths = [max(len(head), *(len(row[i]) for row in cells)) if cells else len(head) for i, head in enumerate(columns)]
    print(f"\n### {title}\n")
    print("| " + " | ".join(head.ljust(width) for head, width in zip(columns, widths, strict=True)) + " |")
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in cells:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    print(flush=True)


def _text(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
    if isinstance(value, list):
        return " - ".join(_text(each) for each in value)
    return str(value)


def write_results(folder, name, results):
    """Write results as JSON, floats with five significant digits; no times of day, names of machines or paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(_rounded(results), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def machine():
    """Return the CPU's name, cores, and our libraries' versions."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = {package: metadata.version(package) for package in ("numpy", "numba", "llvmlite", "h5py")}
    return {"cpu": name, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "versions": versions}
