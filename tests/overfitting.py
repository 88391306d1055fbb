"""Whether a detector learns the few scenes that it sees."""

import torch

from boxwright.boxes import box_iou
from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import build_loader
from boxwright.data.synth import SyntheticScenes
from boxwright.data.transforms import evaluation_transform
from boxwright.engine.anchors import settle_anchors
from boxwright.recipes import build_detector


def overfit(recipe, steps=80, lr=2e-3):
    """Train on eight scenes of 96 px with 78 objects; return the share found, and detections per object."""
    scenes = SyntheticScenes(8, 96)
    detector = build_detector(settle_anchors(recipe, scenes), scenes.names).train()
    dataset = DetectionDataset(scenes, evaluation_transform(96), scenes.draw)
    batch = next(iter(build_loader(dataset, 8, square=96)))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=lr)
    for _ in range(steps):
        losses = detector(batch.images, batch.targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 100.0)
        optimizer.step()
    with torch.no_grad():
        found = detector.eval()(batch.images)
    seen, said = [], 0
    for answer, truth in zip(found, batch.targets.to_list(), strict=True):
        sure = answer["scores"] > 0.3
        overlap = box_iou(truth["boxes"], answer["boxes"][sure])
        overlap = overlap * (truth["labels"].unsqueeze(1) == answer["labels"][sure])
        seen.append((overlap > 0.5).any(dim=1))
        said += int(sure.sum())
    return torch.cat(seen).float().mean(), said / len(torch.cat(seen))
