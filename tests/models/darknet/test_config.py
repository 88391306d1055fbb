import pytest
import torch

from boxwright.errors import RecipeError
from boxwright.models.darknet import Darknet, parse_cfg, read_cfg

NET = "[net]\nheight=16\nwidth=16\n"
CONV = "[convolutional]\nfilters=8\nsize=3\npad=1\nactivation=leaky\n"


def test_comments_blanks_and_a_mark_of_byte_order_count_nowhere(tmp_path):
    file = tmp_path / "a.cfg"
    file.write_bytes(b"\xef\xbb\xbf# a network\r\n[ net ]\r\n height = 16 ; rows\r\n\r\nsteps=1, 2,3,\r\n")
    (net,) = read_cfg(file)
    assert (net.name, net.line, net.integer("height"), net.integers("steps")) == ("net", 2, 16, [1, 2, 3])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no section"),
        ("width=3", r"line 1: 'width' stands before the first section"),
        ("[net", r"line 1: a section reads \[name\]"),
        (NET + "height", r"line 4: expected key=value, found 'height'"),
        (CONV, r"line 1, \[convolutional\]: the first section must be \[net\]"),
        (NET, r"line 1, \[net\]: no layer follows"),
        ("[net]\nwidth=3\n" + CONV, r"line 1, \[net\]: height is missing"),
        (NET + "gru=1\n" + CONV, r"line 4, \[net\]: unknown key 'gru'; known here: B1, B2, adam"),
        ("[net]\nheight=16\nwidth=16385\n" + CONV, r"line 3, \[net\]: width must lie in 1..16384, found '16385'"),
        (NET + "[small]", r"line 4, \[small\]: unknown section"),  # as a method of the planner is called
        (NET + CONV + "stride=0", r"stride must lie in 1..1024, found '0'"),
        (NET + CONV + "groups=0", r"groups must lie in 1..1048576, found '0'"),
        (NET + CONV + "groups=3", r"groups = 3 must divide 3 input channels and 8 filters"),
        (NET + CONV + "filters=1048576\nsize=1024", r"the network has more than 2147483648 parameters up to here"),
        (NET + CONV + "filters=8192\n[reorg]\nstride=16", r"2097152 channels are more than any network has"),
        (NET + "[gru]", r"line 4, \[gru\]: unknown section; known: avgpool, convolutional"),
        (NET + CONV + "dilation=2", r"line 9, \[convolutional\]: unknown key 'dilation'; known here: activation"),
        (NET + CONV + "size=1.5", r"line 9, .*size must be whole numbers separated by commas, found '1.5'"),
        (NET + CONV + "size=3,5", r"line 9, .*size must be one number, found '3,5'"),
        (NET + CONV + "pad=0\npadding=-1", r"line 10, .*padding must lie in 0..1024, found '-1'"),
        (NET + CONV + "[upsample]\nscale=big", r"line 10, .*scale must be numbers separated by commas, found 'big'"),
        (NET + CONV + "[upsample]\nscale=nan", r"line 10, .*scale must lie in .*, found 'nan'"),
        (NET + CONV + "[upsample]\nscale=" + "7" * 80, r"found '7{57}\.\.\.'"),
        (NET + "=3", r"line 4: expected key=value, found '=3'"),
        (NET + "batch=", r"line 4: expected key=value, found 'batch='"),
        (NET + CONV + "size=0", r"line 9, .*size must lie in 1..1024, found '0'"),
        (NET + CONV + "filters=99999999999", r"filters must lie in 1..1048576"),
        (NET + CONV + "groups=2", r"groups = 2 must divide 3 input channels and 8 filters"),
        (NET + CONV + "activation=gelu", r"line 9, .*unknown activation 'gelu'; known: linear, leaky"),
        (NET + CONV + "pad=0\nsize=17", r"nothing is left of an input of 3×16×16: 8×0×0"),
        (NET + CONV + "[route]\nlayers=-1,1", r"line 10, \[route\]: layers names layer 1, but only 0..0 stand before"),
        (NET + CONV + "[maxpool]\nstride=2\n[route]\nlayers=0,1", r"different sizes .*\(0: 8×16×16, 1: 8×8×8\)"),
        (NET + CONV + "[route]\nlayers=0\ngroups=3", r"groups = 3 must divide the channels \[8\]"),
        (NET + CONV + CONV + "filters=4\n[shortcut]\nfrom=-2", r"line 16, .*adds 4×16×16 and 8×16×16 of layer 0"),
        (NET + CONV + "[reorg]\nstride=3", r"stride² = 9 must divide the 8 channels"),
        (NET + CONV + "[upsample]\nstride=1024\n[upsample]\nstride=2", r"gives 8×32768×32768, a side above 16384"),
        (NET + CONV + "[region]\nclasses=3\nanchors=1,1\ncoords=5", r"only boxes of coords = 4 are known"),
        (NET + CONV + "[yolo]\nclasses=3\nanchors=1,1,2\nnum=1", r"num = 1 anchors need 2 numbers, found 3"),
        (NET + CONV + "[yolo]\nclasses=3\nanchors=1,1\nmask=1", r"mask must name some of the anchors 0..0 once"),
        (NET + CONV + "[yolo]\nclasses=3\nanchors=1,-1", r"anchors must be larger than 0, found -1.0"),
        (NET + CONV + "[yolo]\nclasses=4\nanchors=1,1", r"need 9 channels before this layer, found 8: set filters=9"),
        (NET + CONV + "[yolo]\nclasses=3\nanchors=1,1\n[upsample]", r"\[upsample\]: reads layer 1, a detection layer"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_named_with_its_line(text, words):
    with pytest.raises(RecipeError, match=words):
        Darknet(parse_cfg(text))


def test_pad_keeps_the_size_under_a_window_of_any_odd_side():
    network = Darknet(parse_cfg(NET + CONV + "size=5\n"))
    assert network(torch.zeros(1, 3, 16, 16))[0].shape == (1, 8, 16, 16)


def test_a_network_starts_as_darknet_draws_it():
    torch.manual_seed(0)
    wide = CONV + "filters=256\n"
    network = Darknet(parse_cfg(NET + wide + wide))
    second = network.convolutions[1].conv.weight
    assert abs(second.std() / (2 / (256 * 9)) ** 0.5 - 1) < 0.01
    assert not network.convolutions[0].conv.bias.any()


def test_anchors_that_a_region_does_not_name_are_half_a_cell():
    network = Darknet(parse_cfg(NET + CONV + "stride=2\nfilters=16\n[region]\nclasses=3\nnum=2\n"))
    assert network.detections[0].own_anchors == ((1.0, 1.0), (1.0, 1.0))


def test_a_file_that_is_no_cfg(tmp_path):
    file = tmp_path / "a.cfg"
    for content, words in (
        (b"\xff\xfe\x00", "not a text file: byte 0"),
        (b"#" * 2_000_000, "has more than 1048576 bytes"),
    ):
        file.write_bytes(content)
        with pytest.raises(RecipeError, match=words):
            read_cfg(file)
    with pytest.raises(RecipeError, match="cannot read the darknet file"):
        read_cfg(tmp_path / "absent.cfg")
