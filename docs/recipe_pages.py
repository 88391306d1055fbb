"""Writes a page and a picture for each system of dense detection: `python docs/recipe_pages.py`.

Parts come from the recipes, numbers from what `benchmarks/recipes.py` and `benchmarks/inference.py` wrote.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boxwright.recipes import Recipe, load_recipe
from boxwright.recipes.two_stage import TwoStageRecipe

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"

# what `benchmarks/recipes.py --name …` measured
DATA = {
    "bccd": "BCCD blood cells (205 training images) from scratch, AP on validation images; beside a class its objects:",
    "aquarium": "Aquarium (448 training images) from scratch, AP on validation images; beside a class its objects:",
}
HOW = """\
All share augmentation, optimiser and schedule, all but the two YOLO the backbone, and all but `yolov2-tiny` (416 px, 60
epochs) image size and epochs. AP is that of the last epoch, with no choice among epochs: the mean of several seeds with
their deviation where there were several. Seed 0 of every recipe was trained on one thread of a CPU, in 3 to 10 minutes
of its time, and so were all seeds of `retinanet-cb-tiny` and all but one of `retinanet-tiny`; the other seeds on an
H100, whose results are those of a CPU to the spread of the seeds. The results file says which is which. Step, minutes
of a whole training and the largest process's memory are those of 2 cores of a quiet machine. The images per second (one
at a time, fused, with as many boxes to suppress as there can be) are those of 2 cores of another, which is faster;
they vary by a tenth.

```bash
python benchmarks/recipes.py --data ../shared/data/bccd --format coco --name bccd
python benchmarks/recipes.py --data ../shared/data/bccd --format coco --name bccd --speed
OMP_NUM_THREADS=2 python benchmarks/inference.py
```

The order is not quite the published one, and 205 images of three kinds of cells, seen 30 times, are not COCO. What we
think: gradient harmonizing is last because its box loss works on encoded deltas, while the others compare boxes (GIoU).
`retinanet-tiny` compares boxes too, which the published RetinaNet does not, and stands beside ATSS; what ATSS gains on
red cells it loses on platelets, which are one or two cells of the grid in size. TOOD leads on red cells, but its
score · IoU⁶ finds little to rank on platelets either. NanoDet-Plus's guide takes as long to learn as the whole training
lasts. Faster R-CNN gains most where it looks at a finer grid: on platelets.
"""
AQUARIUM = """\
One seed each, on one thread of a CPU (two recipes at once; a core minute is one of processor time). The first two were
given half an hour, the other four the same 45 epochs: the focal loss, the same with weights by effective numbers, and
two ranking losses. 320 pixels are few for this data set: 44 % of its boxes are smaller than 32² pixels at 480.

![AP of each class against how many objects of it there are to learn from](../pictures/classes-aquarium.svg)

How many objects a class has decides little: starfish, the rarest, are among the best found, as they are large and lie
alone, and fish, of which there are 25 times as many, come in schools of small ones. Weights by effective numbers do
what they are for: the two rarest classes gain .03 and .02, penguins .02, and the two most frequent ones pay .02 and
.01. Rank & Sort gains most on sharks, penguins and fish, and loses on the rarest. One seed decides no difference
of .01.

```bash
python benchmarks/recipes.py --data ../shared/data/aquarium --format coco --name aquarium --threads 1 --jobs 2 \\
  --recipes tood-tiny gfl-tiny --set schedule.epochs=85
python benchmarks/recipes.py --data ../shared/data/aquarium --format coco --name aquarium --threads 1 --jobs 2 \\
  --recipes retinanet-tiny retinanet-cb-tiny ap-loss-tiny rank-sort-tiny --set schedule.epochs=45
```
"""
# without a page here; see docs/darknet.md
ELSEWHERE = ("yolov2", "yolov3")
OTHERS = """| `faster-rcnn-vgg16` | [Faster R-CNN](faster-rcnn.md) as first published, on VGG-16 |
| `yolov2`, `yolov2-tiny`, `darknet-yolov2-tiny` | [YOLOv2](../darknet.md) |
| `yolov3`, `yolov3-tiny`, `darknet-yolov3-tiny`, `darknet-yolov3-spp` | [YOLOv3](../darknet.md) |
"""
SPEED = {"step, ms": "step_ms", "minutes": "minutes", "peak, MiB": "peak_MiB"}

TITLES = {
    "retinanet": "RetinaNet",
    "retinanet-ghm": "RetinaNet with gradient harmonizing (GHM)",
    "retinanet-cb": "RetinaNet with class-balanced weights",
    "ap-loss": "AP-Loss",
    "alrp": "aLRP",
    "rank-sort": "Rank & Sort",
    "atss": "ATSS",
    "gfl": "Generalized Focal Loss",
    "gflv2": "Generalized Focal Loss V2",
    "nanodet": "NanoDet",
    "nanodet-plus": "NanoDet-Plus",
    "tood": "TOOD",
    "ssd": "SSD",
    "faster-rcnn": "Faster R-CNN",
}

WHAT = {
    "retinanet": """\
Every anchor of a feature pyramid says at once which class it holds and where. Nearly all of them hold nothing, so the
**focal loss** turns easy background down by (1 − p)², and the class bias starts at a score of 0.01.
Lin et al. 2017, [arXiv:1708.02002](https://arxiv.org/abs/1708.02002).""",
    "retinanet-ghm": """\
An example counts by how rare its gradient is: the many easy ones share one bin of gradient lengths, and so do the
outliers that nothing can teach. GHM-C weighs classes so, GHM-R boxes; running counts of the bins are saved and resumed.
Li, Liu & Wang 2019, [arXiv:1811.05181](https://arxiv.org/abs/1811.05181).""",
    "retinanet-cb": """\
A class with n objects weighs (1 − β) / (1 − βⁿ), the inverse of its effective number, counted in the data itself and
scaled so that the weights sum to the number of classes. The publication trains classifiers; here the weights go with
the focal loss. Cui et al. 2019, [arXiv:1901.05555](https://arxiv.org/abs/1901.05555).""",
    "ap-loss": """\
The classification loss is one minus the average precision of the ranking of all scores of a batch, trained by
error-driven updates ([Ranking losses](../ranking.md)). Chen et al. 2019,
[arXiv:1904.06373](https://arxiv.org/abs/1904.06373).""",
    "alrp": """\
One ranking for scores and boxes: a positive pays for the background above it and for the poor boxes above it. The two
parts balance themselves by their mean values in the epoch before ([Ranking losses](../ranking.md)).
Oksuz et al. 2020, [arXiv:2009.13592](https://arxiv.org/abs/2009.13592).""",
    "rank-sort": """\
Positives belong above background, and among themselves in the order of their IoU; both errors update the scores. Boxes
count together as much as the ranking, so no weight is tuned ([Ranking losses](../ranking.md)).
Oksuz et al. 2021, [arXiv:2107.11669](https://arxiv.org/abs/2107.11669).""",
    "atss": """\
What matters between anchor-based and anchor-free detectors is who becomes positive. ATSS takes the nine nearest priors
of each level and keeps those whose IoU exceeds mean plus standard deviation: every object sets its own threshold. A
quality branch, centerness here, ranks the boxes. Zhang et al. 2020,
[arXiv:1912.02424](https://arxiv.org/abs/1912.02424).""",
    "gfl": """\
Class and quality are one number: the score of the class is trained towards the IoU of the box (quality focal loss).
Each side of a box is a distribution over distances, whose mean is the answer (distribution focal loss).
Li et al. 2020, [arXiv:2006.04388](https://arxiv.org/abs/2006.04388).""",
    "gflv2": """\
How sharp the four distributions are tells how good the box is: their four largest probabilities and the mean of these
pass two small layers, and the result multiplies the class score. Li et al. 2021,
[arXiv:2011.12885](https://arxiv.org/abs/2011.12885).""",
    "nanodet": """\
GFL for small devices: a light backbone, a path aggregation without weights of its own but the lateral ones, and per
level one branch of depthwise separable convolutions for classes and boxes. RangiLyu 2020,
[github.com/RangiLyu/nanodet](https://github.com/RangiLyu/nanodet).""",
    "nanodet-plus": """\
A light head cannot tell early in training which priors suit it. A **guide**, with a neck of its own and a head that is
twice as wide, chooses the assignment by dynamic soft labels; both heads learn from it. From epoch 10 on the guide no
longer moves the detector, and after training it is gone. RangiLyu 2021,
[github.com/RangiLyu/nanodet](https://github.com/RangiLyu/nanodet).""",
    "tood": """\
Class and box should be best at the same place. The head shares one stack of convolutions, lets each task weigh its
layers, multiplies scores by a map and reads each side of a box where learned offsets point. After first epochs by ATSS
an object takes the 13 priors with the largest score · IoU⁶. Feng et al. 2021,
[arXiv:2108.07755](https://arxiv.org/abs/2108.07755).""",
    "ssd": """\
Default boxes of several shapes on levels of falling resolution, each level with convolutions of its own, and one
softmax over classes and background. Every object gets its best default box and all that overlap it by half. Of the
background only the **hard negatives** count: in each image three per matched box, those with the largest loss. 8732
boxes on 38, 19, 10, 5, 3 and 1 cells a side at 300 px; any timm backbone, with VGG-16 as published.
Liu et al. 2016, [arXiv:1512.02325](https://arxiv.org/abs/1512.02325).""",
    "faster-rcnn": """\
Two stages on one backbone. A small **proposal network** says which anchors hold an object of any class and where; the
best of its boxes, without duplicates, are **regions**, and a second head looks at the features of each (RoIAlign) and
says which class it holds and where exactly. Either stage learns from a random sample of each image, so that background
does not drown the objects. Ren et al. 2015, [arXiv:1506.01497](https://arxiv.org/abs/1506.01497); with a feature
pyramid Lin et al. 2017, [arXiv:1612.03144](https://arxiv.org/abs/1612.03144).""",
}

MORE = {
    "faster-rcnn": """\
## Two regimes

```bash
boxwright train --data PATH --recipe faster-rcnn-tiny                                      # both stages together
boxwright train --data PATH --recipe faster-rcnn-tiny --set schedule.regime=alternating    # in turn
```

| `schedule.regime` | what is trained | on |
|---|---|---|
| `joint` | backbone, proposals and regions in every step; no gradient passes through the proposals' coordinates | |
| `alternating` | 1. backbone and proposals | |
| | 2. a second backbone, from its own start, and regions | the proposals of step 1 |
| | 3. proposals, from their start | the backbone and neck of step 2, which no longer change |
| | 4. regions, from where step 2 left them | the same backbone and neck, and the proposals of step 3 |

Each step of the four takes the recipe's epochs and schedule and has a checkpoint of its own: `steps/1-proposals`,
`steps/2-regions` and `steps/3-proposals` in the run folder, and the run's own. Stopped or killed in any of them,
`boxwright train --resume RUN` continues there.

## As first published

`faster-rcnn-vgg16` has one level of stride 16 with the first nine anchors in whole pixels, a softmax over "object" and
"background", proposals of at least 16 pixels and 128 regions per image. Both recipes take any backbone; one level of it
with `--set detector.backbone.levels=[4] --set detector.neck.type=bare --set detector.priors.type=rcnn-anchors`.
`--set detector.regions.class_agnostic=true` predicts one box per region instead of one per class.

Assigner, classification and box loss of each stage are swapped by `criterion.rpn` and `criterion.roi`; online hard
example mining is `--set criterion.roi.sampler.type=hard-example`. What does not fit is refused with the reason: an
assigner that needs a grid cannot match proposals, a ranking loss cannot average over images.

""",
}

# COCO val2017, ResNet-50, 12 epochs unless said otherwise
PUBLISHED = {
    "retinanet": "36.5",
    "retinanet-ghm": "37.0",
    "ap-loss": "38.3 (on ATSS's head)",
    "rank-sort": "39.9",
    "atss": "39.4",
    "gfl": "40.2",
    "gflv2": "41.0",
    "tood": "42.4",
    "nanodet": "20.6 (320 px, 280 epochs)",
    "nanodet-plus": "30.4 (416 px, 300 epochs)",
    "faster-rcnn": "37.4",
    "ssd": "25.1 (300 px, 65 epochs)",
}


def part(value: Any, *fields: str) -> str:
    """Name a part by its type and some of its fields."""
    details = [
        f"{name.replace('_', ' ')} {shown}" for name in fields if (shown := getattr(value, name, None)) is not None
    ]
    return ", ".join([value.type, *details])


def parts(recipe: Recipe) -> dict[str, str]:
    """List what a recipe is made of."""
    if isinstance(recipe, TwoStageRecipe):
        return two_stage_parts(recipe)
    network, criterion = recipe.detector, recipe.criterion
    rows = {
        "backbone": network.backbone.name,
        "neck": part(network.neck, "channels"),
        "head": part(network.head, "convs", "channels", "reg_max"),
        "guide": part(network.guide.head, "convs", "channels") if network.guide else "",
        "priors": part(network.priors, "scale", "octave_base", "scales_per_octave", "offset", "min_sizes"),
        "boxes as": part(network.coder, "reg_max"),
        "assigner": part(criterion.assigner, "topk", "positive_iou", "negative_iou"),
        "classification": part(criterion.classification),
        "sampler": part(criterion.sampler, "ratio") if criterion.sampler else "",
        "boxes": part(criterion.box),
        "distribution": part(criterion.distribution) if criterion.distribution else "",
        "quality": f"{part(criterion.quality)} of {criterion.quality_target}" if criterion.quality else "",
    }
    if criterion.first is not None:
        first = criterion.first
        rows["first epochs"] = f"{first.epochs}: {part(first.assigner)}, {part(first.classification)}"
    return rows


def two_stage_parts(recipe: TwoStageRecipe) -> dict[str, str]:
    """List what a recipe of two stages is made of."""
    network = recipe.detector
    found = network.proposals
    rows = {
        "backbone": network.backbone.name,
        "neck": part(network.neck, "channels"),
        "head": part(network.head, "convs", "channels"),
        "priors": part(network.priors, "octave_base", "scales_per_octave", "offset"),
        "boxes as": part(network.coder),
        "proposals": f"{found.train_post_nms} in training, {found.post_nms} at inference",
        "regions": part(network.regions, "channels", "pool_size"),
        "their boxes as": part(network.region_coder, "stds"),
    }
    for name, stage in (("rpn", recipe.criterion.rpn), ("roi", recipe.criterion.roi)):
        rows[f"{name}: assigner"] = part(stage.assigner, "positive_iou", "negative_iou", "count", "positive_fraction")
        rows[f"{name}: classification"] = part(stage.classification)
        rows[f"{name}: boxes"] = part(stage.box, "sigma")
    return rows


def training(recipe: Recipe) -> dict[str, str]:
    """List how a recipe trains."""
    data, optimizer, schedule = recipe.data, recipe.optimizer, recipe.schedule
    size = "×".join(map(str, data.size)) if isinstance(data.size, tuple) else str(data.size)
    return {
        "image size": size,
        "batch": str(data.batch_size),
        "optimiser": f"{optimizer.type}, lr {optimizer.lr}, weight decay {optimizer.weight_decay}",
        "schedule": f"{schedule.type}, {schedule.epochs} epochs"
        + (f", lower after {', '.join(map(str, schedule.milestones))}" if schedule.milestones else ""),
        "averaged weights": str(recipe.train.ema or "no"),
    }


def picture(recipe: Recipe) -> str:
    """Draw the parts of a recipe: the network in a row, what trains it below."""
    rows = parts(recipe)
    if isinstance(recipe, TwoStageRecipe):
        neck = recipe.detector.neck.type
        network = ["image", rows["backbone"], neck, "rpn head", "proposals", "regions", "detections"]
        stages = {"rpn": recipe.criterion.rpn, "roi": recipe.criterion.roi}.items()
        losses = [
            f"{name}: {text.replace('cross-entropy', 'CE')}"
            for name, stage in stages
            for text in (f"{stage.assigner.type} assigner", stage.classification.type, stage.box.type)
        ]
        return _drawn(network, losses)
    neck = rows["neck"] if "[" not in rows["neck"] else recipe.detector.neck.type  # what fits its box
    network = ["image", rows["backbone"], neck, f"{recipe.detector.head.type} head", "detections"]
    losses = [
        f"{name}: {rows[name].partition(',')[0]}"
        for name in ("classification", "sampler", "boxes", "distribution", "quality")
    ]
    losses = [text for text in losses if not text.endswith(": ")]
    below = [f"assigner: {rows['assigner'].partition(',')[0]}", *losses]
    if rows["guide"]:
        below.insert(0, f"guide: {rows['guide'].partition(',')[0]} head")
    return _drawn(network, below)


def _drawn(network: list[str], below: list[str]) -> str:
    drawn = [*_row(network, 20, "#dbeafe", arrows=True), *_row(below, 110, "#fee2e2", arrows=False)]
    drawn += ['<text x="20" y="94" fill="#b91c1c">in training: the criterion</text>']
    frame = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 170" font-family="sans-serif" font-size="13">'
    return "\n".join([frame, '<rect width="960" height="170" fill="white"/>', *drawn, "</svg>\n"])


def _row(words: list[str], top: int, colour: str, *, arrows: bool) -> list[str]:
    step = 930 / len(words)
    drawn = []
    for index, word in enumerate(words):
        left, width = 20 + index * step, step - 20
        drawn.append(
            f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="44" rx="6" fill="{colour}" stroke="#334155"/>'
        )
        drawn.append(f'<text x="{left + width / 2:.0f}" y="{top + 27}" text-anchor="middle">{word}</text>')
        if arrows and index:
            drawn.append(f'<path d="M{left - 18:.0f} {top + 22} h14 m-5 -4 l5 4 l-5 4" stroke="#334155" fill="none"/>')
    return drawn


def read(name: str) -> dict[str, Any]:
    """Read results of a benchmark, empty where there are none."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def measured(recipe: str, results: dict[str, Any]) -> dict[str, str] | None:
    """What is known of a recipe on one data set, None if it was not trained there."""
    runs = list(results.get("trainings", {}).get(recipe, {}).values())
    if not runs:
        return None
    aps = [run["AP"] for run in runs]
    spread = f" ± {statistics.stdev(aps):.3f} ({len(aps)} seeds)" if len(aps) > 1 else ""
    row = {"recipe": f"`{recipe}`", "AP": f"{statistics.mean(aps):.3f}{spread}"}
    row["AP50"] = f"{statistics.mean(run['AP50'] for run in runs):.3f}"
    for name in runs[0]["classes"]:
        row[f"AP {name} ({results['objects'][name]:,})"] = (
            f"{statistics.mean(run['classes'][name] for run in runs):.3f}"
        )
    if "speed" not in results:
        minutes = statistics.mean(run["cpu_seconds"] for run in runs) / 60
        return row | {"epochs": f"{runs[0]['epochs']}", "core minutes": f"{minutes:.0f}"}
    row |= {title: f"{results['speed'].get(recipe, {}).get(key, '')}" for title, key in SPEED.items()}
    row["images/s"] = f"{read('inference').get(recipe, {}).get('fused_images_per_s', '')}"
    return row


def table(data: str, names: Sequence[str]) -> str:
    """The table of one data set, the best AP first, empty where none of the recipes was trained on it."""
    found = read(f"recipes_{data}")
    rows = [row for name in names if (row := measured(name, found)) is not None]
    if not rows:
        return ""
    rows.sort(key=lambda row: row["AP"], reverse=True)
    text = f"{DATA[data]}\n\n| {' | '.join(rows[0])} |\n" + "|---" * len(rows[0]) + "|\n"
    return text + "".join(f"| {' | '.join(row.values())} |\n" for row in rows) + "\n"


def numbers(names: Sequence[str]) -> str:
    """The tables of all data sets."""
    return "".join(table(data, names) for data in DATA) or "Not measured yet.\n"


def page(name: str) -> str:
    """Write the page of a system."""
    full, tiny = load_recipe(name), load_recipe(f"{name}-tiny")
    text = f"# {TITLES[name]}\n\n{WHAT[name]}\n\n![Parts of {TITLES[name]}](../pictures/recipe-{name}.svg)\n\n"
    train = "boxwright train --data PATH --recipe"
    text += f"```bash\n{train} {name}-tiny  # for a CPU\n{train} {name}\n```\n\n"
    text += f"## Parts\n\n| | `{name}` | `{name}-tiny` |\n|---|---|---|\n"
    for rows in (parts, training):
        ours, small = rows(full), rows(tiny)
        for key in ours | small:
            if ours.get(key) or small.get(key):
                text += f"| {key} | {ours.get(key, '')} | {small.get(key, '')} |\n"
    text += f"\n`boxwright recipes show {name}` prints every field; the file says where each value was published.\n"
    text += f"\n{MORE.get(name, '')}## Numbers\n\n"
    if name in PUBLISHED:
        text += f"Published on COCO val2017: AP {PUBLISHED[name]}. Measured here:\n\n"
    return text + numbers([f"{name}-tiny", name])


def files() -> dict[Path, str]:
    """Every page and picture with what it should hold."""
    index = "# Recipes\n\nThe detectors, each a recipe as published and one for a CPU.\n\n"
    index += "| recipe | system |\n|---|---|\n"
    written = {}
    for name, title in TITLES.items():
        written[DOCS / "recipes" / f"{name}.md"] = page(name)
        written[DOCS / "pictures" / f"recipe-{name}.svg"] = picture(load_recipe(name))
        index += f"| `{name}`, `{name}-tiny` | [{title}]({name}.md) |\n"
    index += OTHERS
    tiny = [f"{name}-tiny" for name in (*TITLES, *ELSEWHERE)]
    index += f"\n## What they reach\n\n{table('bccd', tiny)}{HOW}"
    index += f"\n## With few objects of some classes\n\n{table('aquarium', tiny)}{AQUARIUM}"
    return {DOCS / "recipes" / "index.md": index, **written}


if __name__ == "__main__":
    for file, content in files().items():
        file.write_text(content, encoding="utf-8")
