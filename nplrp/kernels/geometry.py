"""The shape of a convolution, as users see it (`Geometry`) and as the kernels see it (`Problem`)."""

from dataclasses import dataclass
from typing import NamedTuple


class Problem(NamedTuple):
    """What one kernel call computes: a correlation of a (dilated) image with a kernel.

    ::

        out[y, x] = sum over i, j of image[y * stride_h + i * dilation_h - top, x * stride_w + j * dilation_w - left] @ w[i, j]

    where `image` is the input with `up - 1` zeros between neighbours, and zero outside. A transposed convolution is the
    same thing: the strides become `up`, the kernel is turned round.
    """

    height: int
    width: int
    cin: int
    out_height: int
    out_width: int
    cout: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    top: int
    left: int
    up_h: int
    up_w: int
    groups: int


@dataclass(frozen=True)
class Geometry:
    """The shape of a convolution layer.

    Attributes
    ----------
    height, width, cin, cout : int
        Of the input image, and the channels in and out.
    kernel, stride, dilation : (int, int)
    pads : (int, int, int, int)
        Zeros added at the top, bottom, left and right.
    groups : int
        Into how many groups the channels fall, in and out in the same order; an output sees the inputs of its own group.
    """

    height: int
    width: int
    cin: int
    cout: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @property
    def out_height(self) -> int:
        """Return the rows of the output; not positive if the kernel is larger than the padded image."""
        return (self.height + sum(self.pads[:2]) - (self.kernel[0] - 1) * self.dilation[0] - 1) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Return the columns of the output; not positive if the kernel is larger than the padded image."""
        return (self.width + sum(self.pads[2:]) - (self.kernel[1] - 1) * self.dilation[1] - 1) // self.stride[1] + 1

    def problem(self, transposed: bool = False) -> Problem:
        """Return the kernel call of the convolution, or of its transpose."""
        image, out = (self.height, self.width, self.cin), (max(self.out_height, 0), max(self.out_width, 0), self.cout)
        first = (self.pads[0], self.pads[2])
        if not transposed:
            return Problem(*(image + out + self.kernel + self.stride + self.dilation + first + (1, 1, self.groups)))
        turned = tuple((k - 1) * d - p for k, d, p in zip(self.kernel, self.dilation, first, strict=True))
        return Problem(*(out + image + self.kernel + (1, 1) + self.dilation + turned + self.stride + (self.groups,)))
