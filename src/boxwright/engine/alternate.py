"""Faster R-CNN's alternating training: four steps, each a training of its own with its own checkpoint."""

from collections.abc import Callable

from lightning_fabric import Fabric
from torch import Tensor

from boxwright.counts import counted
from boxwright.engine.checkpoint import load_weights
from boxwright.engine.loop import seed_everything
from boxwright.engine.run import Run
from boxwright.errors import RunError
from boxwright.models import TwoStageDetector
from boxwright.recipes import Recipe

__all__ = ["STEPS", "alternate", "alternates", "steps_of"]

STEPS = {
    "1-proposals": "a proposal network",
    "2-regions": "a second network on its proposals",
    "3-proposals": "proposals on the second network's trunk",
    "4-regions": "regions on the same trunk",
}

Build = Callable[[bool | None], TwoStageDetector]
Train = Callable[[Run, TwoStageDetector, bool], object]


def alternates(recipe: Recipe) -> bool:
    """Whether a recipe trains its stages in turn."""
    return getattr(recipe.schedule, "regime", "joint") == "alternating"


def steps_of(run: Run) -> list[Run]:
    """The four steps of a run: the first three below `steps/`, the last is the run itself."""
    return [*(Run(run.path / "steps" / name, whole=run.path) for name in list(STEPS)[:-1]), run]


def alternate(
    fabric: Fabric, run: Run, recipe: Recipe, build: Build, train: Train, say: Callable[[str], None] = lambda _: None
) -> None:
    """Train the stages in turn, from the run's last checkpoint or from the start.

    S. Ren et al. 2015, arXiv:1506.01497, section 3.2: a proposal network; a second network, which shares nothing with
    it, on its proposals; proposals again on the second network's trunk, which no longer changes; regions again on the
    same trunk, with the new proposals. In step 3 the proposals' layers start anew, in step 4 the regions' layers
    continue, as in the authors' code. Every step takes the recipe's epochs and schedule.

    Args:
        fabric: launched.
        run: receives the last step; the others have folders of their own in it, see `steps_of`.
        recipe: one that `alternates`.
        build: builds a detector; None loads the backbone's weights as the recipe says, False does not.
        train: trains a prepared detector in a folder, to the recipe's last epoch; the flag says whether the detector
            detects objects, so that it can be measured.
        say: called with a line when a step begins.

    Raises:
        RunError: a step needs more epochs although a later step is built on it already, or as in `Session`.
    """
    steps = steps_of(run)

    def weights(number: int) -> dict[str, Tensor]:
        state: dict[str, Tensor] = fabric.broadcast(
            load_weights(steps[number].weights_file("last"))[0] if fabric.is_global_zero else {}
        )
        return state

    def prepared(number: int) -> TwoStageDetector:
        seed_everything(recipe.train.seed, number)
        fresh = None if number < 2 and not steps[number].state_file.exists() else False
        if number == 0:
            return build(fresh).train_only("rpn")
        before = weights(number - 1)
        detector = build(fresh)
        if number == 1:
            proposer = build(False)
            proposer.load_state_dict(before)
            return detector.train_only("roi", proposer=proposer.to(fabric.device))
        if number == 2:
            before |= {name: value for name, value in detector.state_dict().items() if name.startswith("head.")}
        detector.load_state_dict(before)
        return detector.train_only("rpn" if number == 2 else "roi", trunk=False)

    safe = fabric.broadcast([step.epochs_done for step in steps])
    for number, (step, what) in enumerate(zip(steps, STEPS.values(), strict=True)):
        if safe[number] >= recipe.schedule.epochs:
            continue
        if any(safe[number + 1 :]):
            raise RunError(
                f"step {number + 1} of {run.path} ended after {counted(safe[number], 'epoch')}, and later "
                f"steps are built on it; it cannot be trained to {recipe.schedule.epochs}: start a new run"
            )
        say(f"step {number + 1} of {len(steps)}: {what}")
        train(step, prepared(number), number % 2 == 1)
