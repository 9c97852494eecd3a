"""The job of `benchmarks/batch.py` around a peer's explanation: read, prepare, explain in batches, write maps and pictures."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

MEAN = (123.68, 116.779, 103.939)
BATCH = 8


def folder_job(folder, side, explain, draw):
    """Return a function that does the job once.

    Parameters
    ----------
    folder : str
    side : int
        Of the network's input.
    explain : callable
        [n, 3, side, side] -> relevance, likewise.
    draw : callable
        (path, map [side, side]) -> None.
    """
    names = sorted(Path(folder).iterdir())

    def read(name):
        pixels = np.asarray(Image.open(name).convert("RGB").resize((side, side), Image.Resampling.NEAREST), np.float32)
        return (pixels - np.float32(MEAN))[:, :, ::-1].transpose(2, 0, 1)

    def run():
        with tempfile.TemporaryDirectory() as out:
            for i in range(0, len(names), BATCH):
                relevance = explain(torch.from_numpy(np.stack([read(name) for name in names[i : i + BATCH]]))).detach().numpy()
                np.savez(f"{out}/{i:06}.npz", relevance=relevance)
                for name, each in zip(names[i : i + BATCH], relevance.sum(axis=1), strict=True):
                    draw(f"{out}/{name.stem}.png", each)
        return relevance[:1]

    return run


def draw(path, heat):
    """Write a map as PNG, zero-centred, in blue and red."""
    scaled = heat / max(np.abs(heat).max(), 1e-30)
    channels = np.stack([1 + np.minimum(scaled, 0), 1 - np.abs(scaled), 1 - np.maximum(scaled, 0)], axis=-1)
    Image.fromarray((channels * 255).astype(np.uint8)).save(path)
