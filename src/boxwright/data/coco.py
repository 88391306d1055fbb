"""Records as the content of a COCO annotation file."""

from collections.abc import Iterable, Sequence
from typing import Any

from boxwright.boxes import xyxy_to_xywh
from boxwright.data.records import ImageRecord

__all__ = ["coco_content"]


def coco_content(
    named: Iterable[tuple[str, ImageRecord]], class_names: Sequence[str], category_ids: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """Write records as `images`, `annotations` (boxes x, y, width, height; ids from 1) and `categories`.

    Args:
        named: file name and record of every image.
        class_names: name of every label.
        category_ids: id of every label.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, record in named:
        images.append({"id": record.image_id, "file_name": name, "width": record.width, "height": record.height})
        boxes = xyxy_to_xywh(record.boxes.double())
        columns = (boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), record.area.tolist())
        for box, label, crowd, area in zip(*columns, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.image_id,
                    "category_id": category_ids[label],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": id_, "name": name} for id_, name in zip(category_ids, class_names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}
