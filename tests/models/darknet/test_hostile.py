"""Whatever stands in a .cfg or .weights, the answer is a network or the project's own error, in bounded memory."""

import resource
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.errors import BoxwrightError, RunError
from boxwright.models.darknet import Darknet, load_darknet, parse_cfg, read_cfg, weights_size, write_weights

CFG = """[net]
height=16
width=16
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
groups=1
activation=mish
[maxpool]
size=2
stride=2
[convolutional]
filters=8
size=1
activation=swish
[shortcut]
from=-2
activation=linear
[upsample]
stride=2
[route]
layers=-1,0
groups=2
group_id=1
[reorg]
stride=2
[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask=0,1
anchors=1,2, 3,4
num=2
classes=2
ignore_thresh=.5
[route]
layers=0
[convolutional]
filters=7
activation=linear
[region]
anchors=1,1
num=1
classes=2
"""
NUMBERS = ["-1", "0", "3", "1e9", "nan", "inf", "1048576", "99999999999999999999", "0.5", "1,2,3", "-3", "x", "１"]
LINES = [*dict.fromkeys(CFG.splitlines()), "[softmax]", "[avgpool]", "[cost]", "[", "[]", "=", "a=", "\x00", "[net]"]
SLACK = 3 << 20  # bytes of Python objects, which a file of any length may cost


@st.composite
def hostile(draw):
    """A good .cfg with a few lines changed, and its weights with some bytes changed, cut off or added."""
    lines = CFG.splitlines()
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["value", "line", "drop", "text", "swap"]))
        if kind == "value":
            lines[place] = lines[place].partition("=")[0] + "=" + draw(st.sampled_from(NUMBERS))
        elif kind == "line":
            lines.insert(place, draw(st.sampled_from(LINES)))
        elif kind == "text":
            lines[place] = draw(st.text(max_size=20))
        elif kind == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[place], lines[other] = lines[other], lines[place]
        elif len(lines) > 1:
            del lines[place]
    weights = bytearray(WEIGHTS)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, min(40, len(weights) - 1)))
        weights[place] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(weights)))
    change = draw(st.sampled_from(["none", "none", "cut", "more"]))
    content = bytes(weights[:cut] if change == "cut" else weights + b"\x7f" * (change == "more") * cut)
    return "\n".join(lines), content


def _good_weights():
    with tempfile.TemporaryDirectory() as folder:
        network, file = Darknet(parse_cfg(CFG)), Path(folder) / "a.weights"
        write_weights(network, file)
        assert file.stat().st_size == weights_size(network)
        return file.read_bytes()


WEIGHTS = _good_weights()


def test_a_network_that_the_file_cannot_fill_is_never_allocated(tmp_path):
    """Two layers of 8,000 filters are 2.3 GB of weights; the file has a few bytes."""
    conv = "[convolutional]\nfilters=8000\nsize=3\n"
    (tmp_path / "a.weights").write_bytes(WEIGHTS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sections = parse_cfg(f"[net]\nheight=8\nwidth=8\n{conv}{conv}")
    with pytest.raises(RunError, match=r"the network needs 2304\d{6}; it ends within cfg, line 4"):
        load_darknet(sections, tmp_path / "a.weights")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def survives(case):
    text, content = case
    with tempfile.TemporaryDirectory() as folder:
        cfg, weights = Path(folder) / "a.cfg", Path(folder) / "a.weights"
        cfg.write_bytes(text.encode(errors="surrogatepass"))
        weights.write_bytes(content)
        tracemalloc.start()
        try:
            network, header = load_darknet(read_cfg(cfg), weights)
        except BoxwrightError:
            return False
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < SLACK
        stored = sum(tensor.nbytes for tensor in network.state_dict().values())
        assert stored <= 2 * len(content)
        copy = Path(folder) / "b.weights"
        write_weights(network, copy, header)
        assert copy.read_bytes() == content
        return True


def test_the_files_that_are_changed_are_good():
    assert survives((CFG, WEIGHTS))


@settings(max_examples=60)
@given(hostile())
def test_hostile_files(case):
    survives(case)


@pytest.mark.slow
@settings(max_examples=2000)
@given(hostile())
def test_two_thousand_hostile_files(case):
    survives(case)
