"""Write the pictures of this folder and what Keras and torchvision make of them. Run once; the tests only read the results.

python make_expected.py pictures       needs NumPy and Pillow
python make_expected.py keras          needs Keras 3 (KERAS_BACKEND=jax or any other)
python make_expected.py torchvision    needs torchvision
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SIZE = (9, 13)
RESAMPLE = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def pictures():
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:31, :23]
    waves = np.stack([127 + 110 * np.sin(x / (3 + c) + y / (5 - c)) for c in range(4)], axis=-1)
    rgba = Image.fromarray((waves + rng.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8), "RGBA")
    rgb = rgba.convert("RGB")
    palette = rgb.quantize(32)
    rgb.save(HERE / "rgb.png")
    rgba.save(HERE / "rgba.png")
    rgba.convert("LA").save(HERE / "la.png")
    rgb.convert("L").save(HERE / "grey.png")
    rgb.convert("1").save(HERE / "one_bit.png")
    palette.save(HERE / "palette.gif")
    palette.save(HERE / "palette_transparent.png", transparency=bytes(rng.integers(0, 256, 32, dtype=np.uint8)))
    rgb.convert("CMYK").save(HERE / "cmyk.tif")
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb.save(HERE / "exif.png", exif=turned)


def keras():
    from keras.src.applications.imagenet_utils import preprocess_input
    from keras.utils import img_to_array, load_img

    expected = {}
    for path in sorted(p for p in HERE.iterdir() if p.suffix in (".png", ".gif", ".tif")):
        for resample in RESAMPLE if path.name == "rgb.png" else RESAMPLE[:2]:
            image = img_to_array(load_img(path, target_size=SIZE, interpolation=resample))
            expected[f"{path.name}|{resample}|none|3"] = image
            expected[f"{path.name}|{resample}|unit|3"] = image / 255
            for mode in ("caffe", "tf", "torch"):
                expected[f"{path.name}|{resample}|{mode}|3"] = np.ascontiguousarray(preprocess_input(image.copy(), mode=mode))
            expected[f"{path.name}|{resample}|none|1"] = img_to_array(
                load_img(path, target_size=SIZE, interpolation=resample, color_mode="grayscale")
            )
    np.savez_compressed(HERE / "keras_expected.npz", **expected)


def torchvision():
    from torchvision import transforms as T

    expected = {}
    for resample in ("nearest", "bilinear", "bicubic"):
        for resize_to, side in ((12, 11), (16, 9), (9, 9)):
            steps = [T.Resize(resize_to, interpolation=T.InterpolationMode(resample)), T.CenterCrop(side), T.ToTensor()]
            steps.append(T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            image = T.Compose(steps)(Image.open(HERE / "rgb.png"))
            expected[f"{resample}|{resize_to}|{side}"] = np.ascontiguousarray(image.numpy().transpose(1, 2, 0))
    np.savez_compressed(HERE / "torchvision_expected.npz", **expected)


{"pictures": pictures, "keras": keras, "torchvision": torchvision}[sys.argv[1]]()
