"""An aarch64 Python on an x86-64 machine: Debian's packages and PyPI's wheels, unpacked into a folder, and run by QEMU's emulation.

Nothing is installed but Debian's `qemu-user-static`; apt is given lists, caches and sources of its own.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
QEMU = "qemu-aarch64-static"
DEBS = ("python3", "libgomp1", "libstdc++6")
WHEELS = ("numpy", "h5py", "pillow", "matplotlib", "numba", "pytest")
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64", "manylinux_2_31_aarch64")
#: Debian 12 has Python 3.11.
PYTHON, RELEASE = "3.11", "bookworm"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
APT = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "{0}/state";
Dir::State::status "{0}/state/status";
Dir::Cache "{0}/cache";
Dir::Etc::main "-";
Dir::Etc::sourcelist "{0}/sources.list";
Dir::Etc::sourceparts "-";
"""
#: Tests start Python by `sys.executable`, which the kernel couldn't run.
SITE = "import os, sys\nsys.executable = os.environ['NPLRP_AARCH64_PYTHON']\n"
RUN = """\
#!/bin/sh
# Python {python} for aarch64, emulated.
export QEMU_LD_PREFIX={folder}/root PYTHONHOME={folder}/root/usr LD_LIBRARY_PATH={folder}/root/usr/lib/aarch64-linux-gnu
export PYTHONPATH={folder}/site:{root} NPLRP_CACHE={folder}/kernels NPLRP_AARCH64_PYTHON={folder}/python
exec {qemu} {folder}/root/usr/bin/python{python} "$@"
"""


def prepared(folder):
    """Return the path of an emulated Python that has nplrp's dependencies, made in `folder` unless it is there already.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    SystemExit
        If this machine lacks what it takes; the message says what.
    """
    folder = Path(folder).resolve()
    qemu, python = shutil.which(QEMU), folder / "python"
    if qemu is None:
        raise SystemExit(f"there is no {QEMU}: apt-get install qemu-user-static")
    stamp = hashlib.sha256(f"{DEBS}{WHEELS}{PYTHON}{RELEASE}{RUN}{SITE}{qemu}{ROOT}".encode()).hexdigest()
    if (folder / "made").is_file() and (folder / "made").read_text() == stamp:
        return python
    for name in ("apt-get", "dpkg-deb"):
        if shutil.which(name) is None:
            raise SystemExit(f"there is no {name}: Debian's packages for aarch64 are fetched and unpacked by it")
    for name in ("state/lists/partial", "cache/archives/partial", "root", "wheels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state" / "status").touch()
    signed = f"[signed-by={KEYS}] " if Path(KEYS).exists() else ""
    (folder / "sources.list").write_text(f"deb {signed}http://deb.debian.org/debian {RELEASE} main\n")
    (folder / "apt.conf").write_text(APT.format(folder))
    apt = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    _run(["apt-get", "update", "-q"], env=apt)
    _run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "--download-only", *DEBS], env=apt)
    for deb in sorted((folder / "cache" / "archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(deb), str(folder / "root")])
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    download = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version", PYTHON, *platforms]
    _run([*download, "--implementation", "cp", "-d", str(folder / "wheels"), *WHEELS])
    shutil.rmtree(folder / "site", ignore_errors=True)
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder / "site")
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    python.write_text(RUN.format(folder=folder, root=ROOT, python=PYTHON, qemu=qemu))
    python.chmod(0o755)
    (folder / "made").write_text(stamp)
    return python


def _run(command, env=None):
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SystemExit(f"{' '.join(command[:3])} ... failed: {''.join(last)}")
