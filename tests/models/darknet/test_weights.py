import struct

import pytest
import torch

from boxwright.errors import RunError
from boxwright.models.darknet import (
    Darknet,
    WeightsHeader,
    layout,
    load_darknet,
    parse_cfg,
    read_weights,
    weights_size,
    write_weights,
)

CFG = """[net]
height=8
width=8
[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky
[maxpool]
[convolutional]
filters=2
activation=linear
"""
VALUES = 4 * 4 + 4 * 3 * 9 + 2 + 2 * 4


def content(major=0, minor=2, seen="<Q"):
    generator = torch.Generator().manual_seed(0)
    header = struct.pack("<iii", major, minor, 5) + struct.pack(seen, 32013312)
    return header + torch.rand(VALUES, generator=generator).numpy().astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("major", "minor", "seen"),
    [(0, 1, "<I"), (0, 2, "<Q"), (1, 0, "<Q"), (999, 999, "<Q"), (1000, 0, "<I"), (0, 1000, "<I")],
)
def test_a_file_of_any_version_comes_back_bit_for_bit(tmp_path, major, minor, seen):
    file, copy = tmp_path / "a.weights", tmp_path / "b.weights"
    file.write_bytes(content(major, minor, seen))
    network, header = load_darknet(parse_cfg(CFG), file)
    assert header == WeightsHeader(major, minor, 5, 32013312)
    assert not network.training
    write_weights(network, copy, header)
    assert copy.read_bytes() == file.read_bytes()


def test_the_order_is_offset_scale_mean_variance_weights(tmp_path):
    file = tmp_path / "a.weights"
    file.write_bytes(struct.pack("<iiiQ", 0, 2, 0, 0) + struct.pack(f"<{VALUES}f", *range(VALUES)))
    network = Darknet(parse_cfg(CFG))
    network.convolutions[0].norm.num_batches_tracked.fill_(7)
    read_weights(network, file)
    first, second = network.convolutions
    norm = first.norm
    assert norm.num_batches_tracked == 0
    starts = [t.flatten()[0].item() for t in (norm.bias, norm.weight, norm.running_mean, norm.running_var)]
    assert starts == [0, 4, 8, 12]
    assert first.conv.weight.flatten().tolist() == list(range(16, 124))
    assert second.conv.bias.tolist() == [124, 125]
    assert second.conv.weight.flatten().tolist() == list(range(126, 134))
    write_weights(network, tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == file.read_bytes()  # of version 0.2.0, and no image seen
    write_weights(network.half(), tmp_path / "c.weights")
    assert (tmp_path / "c.weights").read_bytes() == file.read_bytes()
    assert weights_size(network) == file.stat().st_size


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "has 0 bytes, a darknet header has 16 or 20"),
        (content()[:19], r"has 19 bytes, a header of version 0.2 has 20"),
        (content()[:200], r"has 200 bytes, the network needs 556; it ends within cfg, line 4, \[convolutional\]"),
        (content()[:510], r"it ends within cfg, line 4, \[convolutional\]"),
        (content()[:516], r"it ends within cfg, line 11, \[convolutional\]"),
        (content()[:-1], r"has 555 bytes, the network needs 556; it ends within cfg, line 11, \[convolutional\]"),
        (content() + b"\0", "has 557 bytes, the network of cfg needs 556"),
        (b"\xff" * 556, r"says darknet version -1.-1.-1; is it a .weights file\?"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_changes(tmp_path, data, words):
    file = tmp_path / "a.weights"
    file.write_bytes(data)
    network = Darknet(parse_cfg(CFG))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RunError, match=rf"a\.weights .*{words}"):
        read_weights(network, file)
    with pytest.raises(RunError, match=words):
        load_darknet(parse_cfg(CFG), file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_missing_files_and_headers_that_overflow(tmp_path):
    with pytest.raises(RunError, match="cannot read the weight file"):
        load_darknet(parse_cfg(CFG), tmp_path / "absent")
    with pytest.raises(RunError, match=r"seen = 4294967296 does not fit a header of version 0\.1"):
        write_weights(Darknet(parse_cfg(CFG)), tmp_path / "a", WeightsHeader(0, 1, 0, 1 << 32))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("name", "header", "size"),
    [
        ("yolov2", WeightsHeader(0, 1), 203_934_260),
        ("yolov2-tiny", WeightsHeader(), 44_948_600),
        ("yolov3", WeightsHeader(), 248_007_048),
        ("yolov3-spp", WeightsHeader(), 252_209_544),
        ("yolov3-tiny", WeightsHeader(), 35_434_956),
    ],
)
def test_the_layouts_have_the_published_files_bytes(name, header, size):
    with torch.device("meta"):
        network = Darknet(parse_cfg(layout(name)))
    assert weights_size(network, header) == size


@pytest.mark.parametrize("name", ["yolov2", "yolov2-tiny", "yolov3", "yolov3-spp", "yolov3-tiny"])
def test_narrow_layouts_run_on_images_of_any_size(name):
    text = layout(name, classes=3, size=64, width=0.1, depth=0.2)
    network = Darknet(parse_cfg(text)).eval()
    with torch.no_grad():
        outputs = network(torch.zeros(1, 3, 96, 64))
    for output, detection in zip(outputs, network.detections, strict=True):
        assert output.shape == (1, 8 * len(detection.mask), 96 // detection.stride, 64 // detection.stride)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "yolov9"}, "unknown layout 'yolov9'; known: yolov2"),
        ({"name": "yolov3", "size": 100}, "size must be a multiple of 32, got 100"),
        ({"name": "yolov3", "anchors": [(1, 1)] * 4}, "yolov3 detects on 3 scales, which 4 anchors do not divide by"),
    ],
)
def test_layouts_that_do_not_exist(options, words):
    with pytest.raises(ValueError, match=words):
        layout(**options)
