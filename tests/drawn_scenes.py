"""Objects and detections with every kind of trouble, as COCO files have them."""

import numpy as np


def scenes(seed, images=25, classes=3, rounded=False):
    """Random objects, regions to ignore, and detections near and far, some with equal scores."""
    rng = np.random.default_rng(seed)
    annotations, predictions = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 7)):
            corner, side = rng.uniform(0, 300, 2), rng.uniform(8, 150, 2)
            category, crowd = int(rng.integers(1, classes + 1)) * 3, int(rng.random() < 0.12)
            box = [float(v) for v in (*corner, *side)]
            entry = {"image_id": image * 7, "category_id": category, "bbox": box, "area": box[2] * box[3]}
            annotations.append(entry | {"id": len(annotations) + 1, "iscrowd": crowd})
            for _ in range(rng.integers(0, 4)):
                moved = np.array(box) + rng.normal(0, 8, 4)
                label = category if rng.random() < 0.8 else int(rng.integers(1, classes + 1)) * 3
                predictions.append(detection(image * 7, label, moved, rng, rounded))
        for _ in range(rng.integers(0, 4)):
            box = [*rng.uniform(0, 300, 2), *rng.uniform(8, 150, 2)]
            predictions.append(detection(image * 7, int(rng.integers(1, classes + 1)) * 3, box, rng, rounded))
    truth = {
        "images": [{"id": image * 7, "width": 500, "height": 500} for image in range(1, images + 1)],
        "categories": [{"id": 3 * k, "name": f"class {k}"} for k in range(1, classes + 2)],  # the last has no object
        "annotations": annotations,
    }
    return truth, predictions


def detection(image, category, box, rng, rounded):
    score = rng.random()
    bbox = [float(v) for v in (*box[:2], *np.maximum(box[2:], 1))]
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": round(score, 1) if rounded else score}
