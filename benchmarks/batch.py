"""A folder of photographs, from files to results on disk: `nplrp batch` beside the engine alone, Zennit, Captum, and dask's workers."""

import numpy as np
from coordinator import Entry, compare, race
from networks import describe_graph, write_graph
from PIL import Image
from report import print_table

NETWORKS = ("vgg16", "resnet50")
COLUMNS = {"": "name", "images/s": "images_per_s", "times ours": "ratio", "by round": "ratio_by_round", "range": "ratio_range"}
IMAGES, ROUNDS = 32, 3


def sections(network):
    """Return (title, entries) for each table; the first entry is what the others are compared with."""

    def ours(composite):
        job = {"folder": "photos", "composite": composite}
        return [
            Entry("nplrp explain(), images prepared, nothing written", "nplrp", "folder_engine", job),
            Entry("nplrp batch", "nplrp", "folder_batch", job),
            Entry("nplrp batch --pictures", "nplrp", "folder_batch", {**job, "pictures": True}),
        ]

    def command(name, *more):
        return Entry(name, "nplrp", "folder_command", {"folder": "photos", "composite": "zplus", "more": list(more)})

    # The faster of its two memory formats on VGG16 (benchmarks/graphs.py).
    zennit = Entry("Zennit, channels_last, pictures", "zennit", "folder", {"folder": "photos", "channels_last": True})
    found = [("epsilon_plus", [*ours("epsilon_plus"), zennit])]
    if network == "vgg16":  # its ResNets need layers of their own for Captum
        found.append(("epsilon", [*ours("epsilon"), Entry("Captum, pictures", "captum", "folder", {"folder": "photos"})]))
        plain = command("nplrp batch, from the shell")
        found.append(("zplus, from the shell", [plain, *(command(f"--scheduler local:{n}", "--scheduler", f"local:{n}") for n in (1, 2))]))
    return found


def run(setup):
    """Measure both networks at the largest number of threads."""
    images = 8 if setup.quick else IMAGES
    folder = setup.folder / "photos"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(images):
        noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        noise.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i:03}.jpg", quality=90)
    tables, threads = [], max(setup.threads)
    for name in NETWORKS:
        table = setup.network
        if name != "vgg16":
            weights, table = setup.folder / f"{name}.h5", setup.folder / f"{name}.json"
            write_graph(name, weights)
            describe_graph(weights, table, name)
        workers = setup.start(("nplrp", "zennit", "captum") if name == "vgg16" else ("nplrp", "zennit"), threads, table)
        for title, entries in sections(name):
            for entry in entries:
                entry.parameters["folder"] = str(folder)
            rows = compare(race(workers, entries, threads, 1 if setup.quick else ROUNDS, warm=0), entries[0].name)
            for row in rows:
                row["images_per_s"] = round(1000 * images / row["median_ms"], 2)
            tables.append({"network": name, "composite": title, "threads": threads, "images": images, "rows": rows})
            print_table(f"{name}: {images} JPEGs of 500 x 375, {title}, {threads} threads", COLUMNS, rows)
        for worker in workers.values():
            worker.close()
    return tables
