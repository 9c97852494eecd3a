"""Thousands of images: shards that are written whole, a run that goes on where it was stopped, and what is made of the results.

A run is a folder: `job.json` says what is computed of which images, and `shards/` holds the results of some images each. What a shard
holds depends on the job alone, so it doesn't matter who computes it, when, and beside what others.
"""

from __future__ import annotations
