"""One rank of torch's own data-parallel training of every small recipe; run in a process of its own by test_ddp.py."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from boxwright.recipes import build_detector, load_recipe, recipe_names

# sampling at random (Faster R-CNN) takes others in each process; class counts and a .cfg would have to be given
RECIPES = [name for name in recipe_names() if name.endswith("-tiny") and not name.startswith(("faster", "darknet"))]
RECIPES.remove("retinanet-cb-tiny")
IMAGES, WORLD = 4, 2


def gradients(name: str, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Gradients of all parameters after a step on this rank's share of the images, of which half have no object."""
    torch.manual_seed(0)
    detector = build_detector(load_recipe(name, ["data.size=96"]), ["a", "b"], pretrained=False).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # whose statistics are those of a process
    images = [torch.rand(3, 96, 96) for _ in range(IMAGES)]
    some = {"boxes": torch.tensor([[4.0, 4, 60, 70], [10, 20, 40, 60]]), "labels": torch.tensor([0, 1])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    share = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
    parallel = DistributedDataParallel(detector, find_unused_parameters=True) if world > 1 else detector
    losses = parallel(images[share], [some, some, none, none][share])
    sum(losses.values()).backward()
    return {name: parameter.grad for name, parameter in detector.named_parameters() if parameter.grad is not None}


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    torch.save({name: gradients(name, rank, WORLD) for name in RECIPES}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
