"""Darknet's layers once more, in numpy with plain loops, as its C code runs through memory."""

import numpy as np

ACTIVATIONS = {
    "linear": lambda x: x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relu": lambda x: np.maximum(x, 0),
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
}


def convolve(image, weight, stride=1, pad=0, groups=1):
    """Convolve (C, H, W) with (F, C / groups, k, k)."""
    filters, depth, size, _ = weight.shape
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    height, width = ((side - size) // stride + 1 for side in padded.shape[1:])
    output = np.zeros((filters, height, width))
    for f in range(filters):
        first = f // (filters // groups) * depth
        for y in range(height):
            for x in range(width):
                rows, columns = slice(y * stride, y * stride + size), slice(x * stride, x * stride + size)
                output[f, y, x] = (padded[first : first + depth, rows, columns] * weight[f]).sum()
    return output


def normalize(image, offset, scale, mean, variance):
    """Apply batch norm with fixed statistics."""
    columns = (values[:, None, None] for values in (offset, scale, mean, variance))
    offset, scale, mean, variance = columns
    return scale * (image - mean) / np.sqrt(variance + 1e-5) + offset


def maxpool(image, size, stride, padding):
    """Take the largest in windows that begin half the padding before the image."""
    channels, *sides = image.shape
    height, width = ((side + padding - size) // stride + 1 for side in sides)
    output = np.full((channels, height, width), -np.inf)
    for c, y, x in np.ndindex(*output.shape):
        for dy, dx in np.ndindex(size, size):
            row, column = y * stride + dy - padding // 2, x * stride + dx - padding // 2
            if 0 <= row < sides[0] and 0 <= column < sides[1]:
                output[c, y, x] = max(output[c, y, x], image[c, row, column])
    return output


def reorg(image, stride, reverse):
    """Move values between the places that darknet's index arithmetic gives."""
    channels, height, width = image.shape
    source, target = image.reshape(-1), np.zeros(image.size)
    depth = channels // stride**2
    for k, j, i in np.ndindex(channels, height, width):
        here = i + width * (j + height * k)
        c2, offset = k % depth, k // depth
        w2, h2 = i * stride + offset % stride, j * stride + offset // stride
        there = w2 + width * stride * (h2 + height * stride * c2)
        if reverse:
            target[there] = source[here]
        else:
            target[here] = source[there]
    if reverse:
        return target.reshape(depth, height * stride, width * stride)
    return target.reshape(channels * stride**2, height // stride, width // stride)
