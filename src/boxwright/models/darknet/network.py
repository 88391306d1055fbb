"""A darknet network as a module."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.models.darknet.config import CfgSection
from boxwright.models.darknet.layers import Convolution
from boxwright.models.darknet.plan import plan_layers
from boxwright.models.darknet.shapes import DetectionLayer

__all__ = ["Darknet", "stored_tensors"]


class Darknet(nn.Module):
    """The network that the sections of a `.cfg` describe.

    >>> from boxwright.models.darknet import parse_cfg
    >>> cfg = "[net]\\nheight=8\\nwidth=8\\n[convolutional]\\nfilters=4\\nactivation=leaky"
    >>> Darknet(parse_cfg(cfg))(torch.zeros(1, 3, 8, 8))[0].shape
    torch.Size([1, 4, 8, 8])

    Args:
        sections: what `parse_cfg` or `read_cfg` gives.

    Attributes:
        sections: the sections.
        layers: one module per section after [net].
        detections: the [region] and [yolo] layers, in the file's order.

    Raises:
        RecipeError: a section cannot be built; names file, section and line.
    """

    def __init__(self, sections: Sequence[CfgSection]) -> None:
        super().__init__()
        planned = plan_layers(sections)
        self.sections = tuple(sections)
        self.layers = nn.ModuleList(layer.module for layer in planned)
        self.detections: list[DetectionLayer] = [layer.detection for layer in planned if layer.detection is not None]
        self._sources = [layer.sources for layer in planned]
        self._answers = [index for index, layer in enumerate(planned) if layer.detection is not None]
        self._answers = self._answers or [len(planned) - 1]
        # what each layer is the last to need, so that it need not be kept
        last = {source: index for index, sources in enumerate(self._sources) for source in sources}
        self._done = [[s for s in {*sources} if last[s] == index] for index, sources in enumerate(self._sources)]
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.conv.weight)  # √(2 / fan-in), as darknet draws them
            if convolution.conv.bias is not None:
                nn.init.zeros_(convolution.conv.bias)

    @property
    def convolutions(self) -> list[Convolution]:
        """The layers that hold weights, in the order of a weight file."""
        return [layer for layer in self.layers if isinstance(layer, Convolution)]

    @torch.no_grad()
    def expect_objects(self, probability: float) -> None:
        """Start the objectness of every cell at a probability, so that background does not swamp the first steps.

        T.-Y. Lin et al. 2017, arXiv:1708.02002, section 4.1; darknet itself starts at 0.5.
        """
        for index, detection in zip(self._answers, self.detections, strict=False):
            output = self.layers[self._sources[index][0]]
            if isinstance(output, Convolution) and output.conv.bias is not None:
                cells = output.conv.bias.view(len(detection.mask), 5 + detection.classes)
                cells[:, 4] = math.log(probability / (1 - probability))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, C, H, W) to what stands before each detection layer, (B, A (5 + classes), H', W') in order.

        A network without detection layers gives the output of its last layer.
        """
        outputs = {-1: images}
        answers = []
        for index, (layer, sources, done) in enumerate(zip(self.layers, self._sources, self._done, strict=True)):
            output = layer(*[outputs[source] for source in sources])
            for source in done:
                del outputs[source]
            if index in self._answers:
                answers.append(output)
            outputs[index] = output
        return answers


def stored_tensors(convolution: Convolution) -> list[Tensor]:
    """Tensors of a convolution in the order of a weight file: bias or offset, norm's scale, mean, variance, weights."""
    conv, norm = convolution.conv, convolution.norm
    if norm is None:
        assert conv.bias is not None  # a convolution has the one or the other
        return [conv.bias, conv.weight]
    assert norm.running_mean is not None  # as BatchNorm2d's defaults have it
    assert norm.running_var is not None
    return [norm.bias, norm.weight, norm.running_mean, norm.running_var, conv.weight]
