"""The convolutions of four networks at 224 x 224, as tables. Imported by workers in several interpreters: needs nothing."""

from typing import NamedTuple


class Layer(NamedTuple):
    """A convolution of a square image: how often it comes, sides, channels, kernel, stride, zeros at (top, bottom, left, right), groups."""

    count: int
    side: int
    cin: int
    cout: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @property
    def name(self):
        """Return a short name."""
        kind = "depthwise" if self.groups == self.cin > 1 else f"groups {self.groups}" if self.groups > 1 else ""
        step = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.side} {self.cin}>{self.cout} {self.kernel[0]}x{self.kernel[1]}{step} {kind}".strip()

    @property
    def out_side(self):
        """Return (rows, columns) of the output."""
        top, bottom, left, right = self.pads
        return tuple((self.side + p - k) // self.stride + 1 for k, p in zip(self.kernel, (top + bottom, left + right), strict=True))

    @property
    def multiplications(self):
        """Return the multiply-adds of one image."""
        height, width = self.out_side
        return height * width * self.cout * self.cin // self.groups * self.kernel[0] * self.kernel[1]


def same(count, side, cin, cout, kernel=(3, 3), groups=1):
    """Return a layer without stride whose output is as large as its input."""
    kh, kw = kernel
    return Layer(count, side, cin, cout, kernel, 1, (kh // 2, kh // 2, kw // 2, kw // 2), groups)


def resnet50():
    """Return ResNet50's layers; its strides are in the 1 x 1 convolutions, as in Keras."""
    layers = [Layer(1, 224, 3, 64, (7, 7), 2, (3, 3, 3, 3)), Layer(1, 56, 64, 64), Layer(1, 56, 64, 256)]
    cin, side = 64, 56
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        stride = 1 if width == 64 else 2
        if width > 64:
            layers += [Layer(1, side, cin, width, stride=stride), Layer(1, side, cin, 4 * width, stride=stride)]
        side //= stride
        layers += [same(blocks, side, width, width), Layer(blocks, side, width, 4 * width), Layer(blocks - 1, side, 4 * width, width)]
        cin = 4 * width
    return layers


def resnext50():
    """Return the grouped convolutions of ResNeXt50, 32 groups."""
    layers, side = [], 56
    for width, blocks in ((128, 3), (256, 4), (512, 6), (1024, 3)):
        if width > 128:
            layers.append(Layer(1, side, width, width, (3, 3), 2, (1, 1, 1, 1), 32))
            side //= 2
        layers.append(same(blocks - (width > 128), side, width, width, groups=32))
    return layers


def densenet121():
    """Return DenseNet121's layers."""
    layers, cin, side = [Layer(1, 224, 3, 64, (7, 7), 2, (3, 3, 3, 3))], 64, 56
    for blocks in (6, 12, 24, 16):
        layers += [Layer(1, side, cin + 32 * i, 128) for i in range(blocks)]
        layers.append(same(blocks, side, 128, 32))
        cin += 32 * blocks
        if blocks < 16 or side > 7:
            layers.append(Layer(1, side, cin, cin // 2))
            cin, side = cin // 2, side // 2
    return layers


def mobilenet_v2():
    """Return MobileNetV2's layers."""
    layers, cin, side = [Layer(1, 224, 3, 32, (3, 3), 2, (0, 1, 0, 1))], 32, 112
    for t, cout, blocks, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(blocks):
            wide, step = t * cin, stride if i == 0 else 1
            if t > 1:
                layers.append(Layer(1, side, cin, wide))
            pads = (1, 1, 1, 1) if step == 1 else (0, 1, 0, 1)
            layers.append(Layer(1, side, wide, wide, (3, 3), step, pads, wide))
            side //= step
            layers.append(Layer(1, side, wide, cout))
            cin = cout
    return [*layers, Layer(1, 7, 320, 1280)]


def inception_v3():
    """Return InceptionV3's layers at this size (it is made for 299)."""
    small, large = ((1, 7), (7, 1)), ((1, 3), (3, 1))
    layers = [Layer(1, 224, 3, 32, (3, 3), 2), Layer(1, 111, 32, 32, (3, 3)), same(1, 109, 32, 64), Layer(1, 54, 64, 80)]
    layers.append(Layer(1, 54, 80, 192, (3, 3)))
    layers += [Layer(2, 25, 192, 64), Layer(1, 25, 192, 48), Layer(1, 25, 192, 32), Layer(3, 25, 256, 64), Layer(1, 25, 256, 48)]
    layers += [Layer(4, 25, 288, 64), Layer(1, 25, 288, 48), same(3, 25, 48, 64, (5, 5)), same(4, 25, 64, 96), same(3, 25, 96, 96)]
    layers += [Layer(1, 25, 288, 384, (3, 3), 2), Layer(1, 25, 96, 96, (3, 3), 2)]
    layers += [Layer(2, 12, 768, 128), Layer(12, 12, 768, 192), Layer(4, 12, 768, 160)]
    for kernel in small:
        layers += [same(2, 12, 128, 128, kernel), same(1, 12, 128, 192, kernel), same(4, 12, 160, 160, kernel)]
        layers += [same(2, 12, 160, 192, kernel), same(4, 12, 192, 192, kernel)]
    layers += [Layer(1, 12, 192, 320, (3, 3), 2), Layer(1, 12, 192, 192, (3, 3), 2)]
    for cin in (1280, 2048):
        layers += [Layer(1, 5, cin, cout) for cout in (448, 384, 320, 192)]
    layers += [same(2, 5, 448, 384), *(same(4, 5, 384, 384, kernel) for kernel in large)]
    return layers


def vgg16():
    """Return VGG16's layers."""
    layers = [same(1, 224, 3, 64), same(1, 224, 64, 64), same(1, 112, 64, 128), same(1, 112, 128, 128), same(1, 56, 128, 256)]
    return [*layers, same(2, 56, 256, 256), same(1, 28, 256, 512), same(2, 28, 512, 512), same(3, 14, 512, 512)]


NETWORKS = {each.__name__: each for each in (resnet50, densenet121, inception_v3, mobilenet_v2, resnext50, vgg16)}
