"""Reads and writes darknet's `.weights`: a header, then every convolution's numbers as float32, little-endian."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from boxwright.errors import RunError
from boxwright.files import atomic_path
from boxwright.models.darknet.config import CfgSection
from boxwright.models.darknet.layers import Convolution
from boxwright.models.darknet.network import Darknet, stored_tensors

__all__ = ["WeightsHeader", "load_darknet", "read_weights", "weights_size", "write_weights"]


@dataclass(frozen=True)
class WeightsHeader:
    """What stands before the numbers.

    Attributes:
        major: of darknet's version.
        minor: likewise; from version 0.2 on `seen` has eight bytes, before it four.
        revision: likewise.
        seen: number of images that the network was trained with.
    """

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0

    @property
    def size(self) -> int:
        """Bytes of the header."""
        return struct.calcsize(self._format)

    @property
    def _format(self) -> str:
        # versions beyond 1000 once marked transposed matrices, and kept the short counter
        long = self.major * 10 + self.minor >= 2 and self.major < 1000 and self.minor < 1000
        return "<iiiQ" if long else "<iiiI"

    def pack(self) -> bytes:
        """Return the header's bytes.

        Raises:
            RunError: `seen` does not fit.
        """
        try:
            return struct.pack(self._format, self.major, self.minor, self.revision, self.seen)
        except struct.error as error:
            raise RunError(f"seen = {self.seen} does not fit a header of version {self.major}.{self.minor}") from error

    @classmethod
    def read(cls, file: BinaryIO, path: Path) -> "WeightsHeader":
        """Read the header at the start of a file.

        Raises:
            RunError: the file ends within it, or the version is negative.
        """
        start = file.read(20)
        if len(start) < 16:
            raise RunError(f"{path} has {len(start)} bytes, a darknet header has 16 or 20")
        major, minor, revision = struct.unpack_from("<iii", start)
        if min(major, minor, revision) < 0:
            raise RunError(f"{path} says darknet version {major}.{minor}.{revision}; is it a .weights file?")
        header = cls(major, minor, revision)
        if len(start) < header.size:
            raise RunError(f"{path} has {len(start)} bytes, a header of version {major}.{minor} has {header.size}")
        header = cls(*struct.unpack_from(header._format, start))
        file.seek(header.size)
        return header


def weights_size(network: Darknet, header: WeightsHeader | None = None) -> int:
    """Return the bytes of a weight file of this network, by default with today's header of 20."""
    values = sum(tensor.numel() for convolution in network.convolutions for tensor in stored_tensors(convolution))
    return (header or WeightsHeader()).size + 4 * values


def load_darknet(sections: list[CfgSection], path: str | Path) -> tuple[Darknet, WeightsHeader]:
    """Build a network and fill it from a weight file; nothing is allocated before the file has the right length.

    Raises:
        RecipeError: the sections cannot be built.
        RunError: the file cannot be read or does not fit; names the section at which it ends.
    """
    with torch.device("meta"):
        network = Darknet(sections)
    with _opened(Path(path)) as file:
        header = _checked(file, Path(path), network)
        network.to_empty(device="cpu")
        _fill(file, network)
    return network.eval(), header


def read_weights(network: Darknet, path: str | Path) -> WeightsHeader:
    """Fill a network on the CPU from a weight file; raises like `load_darknet`, before anything has changed."""
    with _opened(Path(path)) as file:
        header = _checked(file, Path(path), network)
        _fill(file, network)
    return header


def write_weights(network: Darknet, path: str | Path, header: WeightsHeader | None = None) -> None:
    """Write a network's weights, whole or not at all; what `read_weights` has read is written bit for bit.

    Args:
        network: the network.
        path: the file.
        header: version and images seen; by default version 0.2.0 and none.
    """
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        file.write((header or WeightsHeader()).pack())
        for convolution in network.convolutions:
            for tensor in stored_tensors(convolution):
                file.write(tensor.detach().cpu().float().numpy().astype("<f4", copy=False).tobytes())


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise RunError(f"cannot read the weight file {path}: {error.strerror}") from error


def _checked(file: BinaryIO, path: Path, network: Darknet) -> WeightsHeader:
    """Read the header, and see that the file has exactly the bytes that the network wants."""
    header = WeightsHeader.read(file, path)
    found, wanted = os.fstat(file.fileno()).st_size, weights_size(network, header)
    if found < wanted:
        end, place = header.size, ""
        for layer, section in zip(network.layers, network.sections[1:], strict=True):
            if end <= found and isinstance(layer, Convolution):
                end, place = end + 4 * sum(tensor.numel() for tensor in stored_tensors(layer)), section.place()
        raise RunError(f"{path} has {found} bytes, the network needs {wanted}; it ends within {place}")
    if found > wanted:
        raise RunError(f"{path} has {found} bytes, the network of {network.sections[0].source} needs {wanted}")
    return header


@torch.no_grad()
def _fill(file: BinaryIO, network: Darknet) -> None:
    for convolution in network.convolutions:
        for tensor in stored_tensors(convolution):
            values = np.fromfile(file, dtype="<f4", count=tensor.numel())
            tensor.copy_(torch.from_numpy(values.astype(np.float32, copy=False)).view(tensor.shape))
        if convolution.norm is not None:
            assert convolution.norm.num_batches_tracked is not None  # as BatchNorm2d's defaults have it
            convolution.norm.num_batches_tracked.zero_()
