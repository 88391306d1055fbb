import json

import numpy as np

from boxwright.data import open_dataset
from boxwright.data.stats import SplitColumns, statistics
from datasets import coco_content, write_coco


def columns(counts, labels, crowd, area):
    return SplitColumns(np.array(counts), np.array(labels, int), np.array(crowd, int), np.array(area, float))


def test_counts_by_hand():
    train = columns([3, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0], [32**2 - 1, 32**2, 5, 96**2])
    result = statistics(("cat", "dog", "cow"), {"train": train, "val": columns([1], [2], [0], [1])})

    split = result.splits["train"]
    assert (split.images, split.background, split.objects, split.crowd) == (4, 2, 3, 1)
    assert split.classes == {"cat": 2, "dog": 1, "cow": 0}
    assert split.sizes == {"small": 1, "medium": 1, "large": 1}
    assert split.per_image == {"min": 0, "median": 0.5, "mean": 1, "max": 3}
    assert result.classes == {"cat": 2, "dog": 1, "cow": 1}
    assert result.sizes == {"small": 0.5, "medium": 0.25, "large": 0.25}


def test_no_object_at_all():
    result = statistics(("cat",), {"val": columns([0], [], [], [])})
    assert result.sizes == {"small": 0, "medium": 0, "large": 0}
    json.dumps(result.to_dict())


def test_of_an_index(tmp_path):
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1
    index = open_dataset(write_coco(tmp_path, content, split="val"))
    split = index.statistics().splits["val"]
    assert (split.images, split.background, split.objects, split.crowd) == (3, 1, 2, 1)
    assert index.class_counts("val").tolist() == list(split.classes.values()) == [0, 2]
