"""A small data set with known trouble, and assignment counted one object and one prior at a time."""

import json

from PIL import Image

SIZE = 128
OBJECTS = {
    # one large object, one that overlaps it, and the same object boxed twice
    "a.png": [(0, (8, 8, 72, 72)), (1, (40, 40, 120, 120)), (0, (80, 4, 112, 36)), (0, (81, 4, 113, 36))],
    # objects smaller than a cell, side by side
    "b.png": [(1, (20, 20, 25, 25)), (1, (25, 20, 30, 25)), (0, (64, 64, 67, 67))],
    "c.png": [],
    "d.png": [(0, (0, 0, 128, 30)), (1, (100, 0, 108, 128))],
}
CROWD = ("d.png", (0, 60, 90, 128))


def write_dataset(root):
    """Write the objects as COCO with images of 128x128, one of which has a region to ignore and one no objects."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number, (name, objects) in enumerate(OBJECTS.items()):
        Image.new("RGB", (SIZE, SIZE), (40 * number, 90, 140)).save(root / "images" / name)
        images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
        boxes = [(label, box, 0) for label, box in objects] + [(0, CROWD[1], 1)] * (name == CROWD[0])
        for label, (x1, y1, x2, y2), crowd in boxes:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": crowd}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, **box})
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "platelet"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root


def iou(a, b):
    """Overlap of two boxes in plain Python."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def max_iou(boxes, priors, threshold):
    """The object of each prior by an IoU threshold alone, one pair at a time; None is nobody's."""
    owners = []
    for prior in priors:
        overlaps = [iou(box, prior) for box in boxes]
        best = max(overlaps, default=0.0)
        owners.append(overlaps.index(best) if boxes and best >= threshold else None)
    return owners
