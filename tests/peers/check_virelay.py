"""Load projects with ViRelAy's own classes, draw what it would show, and print what was found as JSON."""

import json
import sys

import numpy as np
from virelay.model import Workspace
from virelay.server import Server

COLOURS = ("gray-red", "black-green", "black-fire-red", "black-yellow", "blue-white-red", "afm-hot", "jet", "seismic")


def found(project):
    """Everything of a project that can be asked for."""
    rows = []
    for i in range(len(project.dataset)):
        sample, attribution = project.get_sample(i), project.get_attribution(i)
        drawn = [attribution.render_heatmap(name, superimposed) for name in COLOURS for superimposed in (None, sample.data)]
        rows.append(
            {
                "sample": [label.index for label in sample.labels],
                "picture": sample.data.sum(axis=(0, 1), dtype=int).tolist(),
                "attribution": [label.name for label in attribution.labels],
                "sum": float(attribution.data.sum(dtype=float)),
                "shape": list(attribution.data.shape),
                "prediction": attribution.prediction.tolist(),
                "drawn": sorted({str(each.shape) for each in drawn}),
            }
        )
    analyses = {}
    for method in project.get_analysis_methods():
        names = project.get_analysis_clustering_names(method), project.get_analysis_embedding_names(method)
        categories = []
        for category in project.get_analysis_categories(method):
            each = [project.get_analysis(method, category.name, a, b) for a in names[0] for b in names[1]]
            shapes = [[list(one.embedding.shape), int(np.max(one.clustering)), one.attribution_indices.tolist()] for one in each]
            categories.append([category.name, category.human_readable_name, shapes])
        analyses[method] = {"clusterings": names[0], "embeddings": names[1], "categories": categories}
    return {"name": project.name, "model": project.model, "rows": rows, "analyses": analyses}


def main():
    """Print what is in the projects, and what the server answers for the first."""
    workspace = Workspace()
    for path in sys.argv[1:]:
        workspace.add_project(path)
    projects = [found(workspace.get_project(name)) for name in workspace.get_project_names()]
    client = Server(workspace).app.test_client()
    paths = ["", "/0", "/0/attributions/0", "/0/attributions/0/heatmap?superimpose=True", "/0/dataset/0/image"]
    paths.append("/0/analyses/pca?category=all-maps&clustering=kmeans-02&embedding=pca")
    answers = {path: client.get(f"/api/projects{path}").status_code for path in paths}
    print(json.dumps({"projects": projects, "answers": answers}))


if __name__ == "__main__":
    main()
