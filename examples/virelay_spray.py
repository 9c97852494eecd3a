"""SpRAy with CoRelAy on what ``nplrp export RUN --to virelay --out OUT`` wrote: adds a spectral analysis of every class to a project.

    pip install virelay corelay
    python virelay_spray.py OUT/zplus.yaml [--classes n02091831,n02870880]
    virelay OUT/zplus.yaml

Lapuschkin et al. 2019, "Unmasking Clever Hans predictors and assessing what machines really learn".
"""

import argparse
import json
from pathlib import Path

import h5py
import numpy as np
import yaml
from corelay.pipeline.spectral import SpectralClustering
from corelay.processor.affinity import SparseKNN
from corelay.processor.base import FunctionProcessor
from corelay.processor.clustering import KMeans
from corelay.processor.distance import SciPyPDist
from corelay.processor.embedding import EigenDecomposition, TSNEEmbedding
from corelay.processor.flow import Parallel

CLUSTERS, FEWEST = (2, 4, 6, 8, 10), 12


def summed(maps):
    """[n, 3, h, w] -> [n, h w]: summed over the channels, and divided by the sum of magnitudes."""
    flat = maps.sum(axis=1).reshape(len(maps), -1)
    return flat / np.maximum(np.abs(flat).sum(axis=1, keepdims=True), 1e-30)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="a .yaml of nplrp export")
    parser.add_argument("--classes", help="ids of classes, with commas between them; default: all with 12 maps or more")
    arguments = parser.parse_args()
    folder = arguments.project.parent
    content = yaml.safe_load(arguments.project.read_text("utf-8"))
    ids = {each["index"]: each["word_net_id"] for each in json.loads((folder / content["project"]["label_map"]).read_text("utf-8"))}
    wanted = None if arguments.classes is None else set(arguments.classes.split(","))
    target = folder / f"{arguments.project.stem}.spray.h5"
    with h5py.File(folder / content["project"]["attributions"]["sources"][0]) as maps, h5py.File(target, "w") as file:
        labels = maps["label"][...]
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            if len(places) < FEWEST or (wanted is not None and ids[label] not in wanted):
                continue
            clustering = Parallel([KMeans(n_clusters=k) for k in CLUSTERS], broadcast=True)
            tsne = TSNEEmbedding(perplexity=min(30, len(places) / 3))
            pipeline = SpectralClustering(
                preprocessing=FunctionProcessor(processing_function=summed, bind_method=False),
                pairwise_distance=SciPyPDist(metric="euclidean"),
                affinity=SparseKNN(n_neighbors=min(10, len(places) - 1), symmetric=True),
                embedding=EigenDecomposition(n_eigval=8, is_output=True),
                clustering=Parallel([clustering, tsne], broadcast=True, is_output=True),
            )
            (values, embedding), (clusters, tsne) = pipeline(maps["attribution"][places])
            group = file.create_group(ids[label])
            group["index"] = places.astype(np.uint32)
            group["embedding/spectral"] = embedding.astype(np.float32)
            group["embedding/spectral"].attrs["eigenvalue"] = values.astype(np.float32)
            group["embedding/tsne"] = tsne.astype(np.float32)
            for k, each in zip(CLUSTERS, clusters, strict=True):
                group[f"cluster/kmeans-{k:02}"] = np.asarray(each).astype(np.uint32)
        if not len(file):
            raise SystemExit(f"no class has {FEWEST} maps or more; nothing to analyse")
    analyses = content["project"]["analyses"] = [each for each in content["project"]["analyses"] if each["analysis_method"] != "spray"]
    analyses.append({"analysis_method": "spray", "sources": [target.name]})
    arguments.project.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    print(f"wrote {target}; look at it with: virelay {arguments.project}")


if __name__ == "__main__":
    main()
