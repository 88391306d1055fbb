"""Every layer against numpy loops; the golden numbers of a small network are computed there, not by torch."""

import numpy as np
import pytest
import torch

import darknet_reference as reference
from boxwright.models.darknet import Darknet, parse_cfg
from boxwright.models.darknet.network import stored_tensors


def network(layers, size=6, channels=3):
    net = Darknet(parse_cfg(f"[net]\nheight={size}\nwidth={size}\nchannels={channels}\n{layers}")).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for convolution in net.convolutions:
            for tensor in stored_tensors(convolution):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - (0.3 if tensor.ndim == 4 else -0.2))
    return net


def run(layers, image):
    net = network(layers, image.shape[1], image.shape[0])
    with torch.no_grad():
        (output,) = net(torch.from_numpy(image)[None].float())
    return net, output[0].numpy()


IMAGE = np.random.default_rng(0).standard_normal((8, 6, 6))


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
@pytest.mark.parametrize(("normalize", "stride", "groups"), [(1, 1, 1), (0, 2, 1), (1, 2, 4)])
def test_convolution(activation, normalize, stride, groups):
    cfg = f"batch_normalize={normalize}\nfilters=4\nsize=3\nstride={stride}\npad=1\ngroups={groups}"
    net, output = run(f"[convolutional]\n{cfg}\nactivation={activation}", IMAGE)
    *first, weight = (tensor.detach().double().numpy() for tensor in stored_tensors(net.convolutions[0]))
    expected = reference.convolve(IMAGE, weight, stride, 1, groups)
    expected = reference.normalize(expected, *first) if normalize else expected + first[0][:, None, None]
    np.testing.assert_allclose(output, reference.ACTIVATIONS[activation](expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, 1), (2, 1, 1), (3, 2, 2), (5, 1, 4), (3, 3, 0), (2, 2, 0)]
)
def test_maxpool(size, stride, padding):
    for image in (IMAGE, IMAGE[:, :5, :5]):
        _, output = run(f"[maxpool]\nsize={size}\nstride={stride}\npadding={padding}", image)
        np.testing.assert_allclose(output, reference.maxpool(image, size, stride, padding), rtol=1e-6)


@pytest.mark.parametrize("reverse", [0, 1])
def test_reorg(reverse):
    _, output = run(f"[reorg]\nstride=2\nreverse={reverse}", IMAGE)
    np.testing.assert_allclose(output, reference.reorg(IMAGE, 2, reverse), rtol=1e-6)


def test_the_other_layers():
    keep = "[maxpool]\nsize=1\nstride=1\n"  # a layer that changes nothing, so that there is one to name
    _, output = run(f"{keep}[upsample]\nstride=2\nscale=0.5", IMAGE)
    np.testing.assert_allclose(output, IMAGE.repeat(2, 1).repeat(2, 2) / 2, rtol=1e-6)
    _, output = run("[avgpool]\n[softmax]\ngroups=2\ntemperature=2\n[cost]\ntype=sse", IMAGE)
    exponent = np.exp(IMAGE.mean((1, 2)).reshape(2, 4) / 2)
    np.testing.assert_allclose(output.reshape(2, 4), exponent / exponent.sum(1, keepdims=True), rtol=1e-5)
    _, output = run(f"{keep}[reorg]\nstride=1\n[route]\nlayers=-1,0\ngroups=2\ngroup_id=1", IMAGE)
    np.testing.assert_allclose(output, np.concatenate([IMAGE[4:], IMAGE[4:]]), rtol=1e-6)
    _, output = run(f"{keep}{keep}[shortcut]\nfrom=-2\nactivation=leaky", IMAGE)
    np.testing.assert_allclose(output, reference.ACTIVATIONS["leaky"](2 * IMAGE), rtol=1e-6)


def test_a_network_with_two_scales_gives_what_stands_before_each_detection():
    conv = "[convolutional]\nfilters={}\nsize=1\nactivation=leaky\n"
    yolo = "[yolo]\nclasses=1\nanchors=1,1,2,2\nnum=2\nmask={}\n"
    cfg = (
        conv.format(4) + "[maxpool]\nsize=2\nstride=2\n" + conv.format(6) + yolo.format(1)
        + "[route]\nlayers=-3\n[upsample]\nstride=2\n[route]\nlayers=-1,0\n" + conv.format(6) + yolo.format(0)
    )  # fmt: skip
    net = network(cfg)
    assert [(d.stride, d.own_anchors) for d in net.detections] == [(2, ((2.0, 2.0),)), (1, ((1.0, 1.0),))]
    image = IMAGE[:3]
    parameters = [[t.detach().double().numpy() for t in stored_tensors(c)] for c in net.convolutions]

    def conv_of(index, x):
        bias, weight = parameters[index]
        return reference.ACTIVATIONS["leaky"](reference.convolve(x, weight) + bias[:, None, None])

    first = conv_of(0, image)
    pooled = reference.maxpool(first, 2, 2, 1)
    fine = np.concatenate([pooled.repeat(2, 1).repeat(2, 2), first])
    with torch.no_grad():
        outputs = net(torch.from_numpy(image)[None].float())
    for output, expected in zip(outputs, [conv_of(1, pooled), conv_of(2, fine)], strict=True):
        np.testing.assert_allclose(output[0].numpy(), expected, rtol=1e-4, atol=1e-5)
