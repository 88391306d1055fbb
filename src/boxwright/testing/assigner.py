"""`check_assigner`: what an assigner must survive before anybody should train with it."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor

from boxwright.assigners.blocks import BLOCK_ELEMENTS
from boxwright.errors import MissingPackageError
from boxwright.structures import IGNORED, Assignment, Targets
from boxwright.testing.scenes import Scene, crowded_scene, fitted_scene, random_scene
from boxwright.testing.subject import claim
from boxwright.testing.waiting import check_never_waits, host_may_not_look

__all__ = ["check_assigner"]

Assigner = Callable[..., Assignment | tuple[Assignment, ...]]


def check_assigner(
    assigner: Assigner,
    *,
    reference: Assigner | None = None,
    scenes: int = 12,
    order: bool = True,
    waits: bool = False,
    compile: bool = True,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Check that an assigner is right, sound, and answers the same in every setting; say what is not.

    Tried are, on random scenes of which every second is hostile (see `random_scene`) and on one where every object
    nearly fills a prior: that matches are with real objects and scores in 0..1 without a gradient, inputs left
    untouched, no predictions where `needs_predictions` is False, other block sizes, more padding, images alone and in
    another order, the promise that there is no crowd, predictions and targets of another precision, code for a host
    that may not look at values; regions to ignore that lie on priors; on ordinary scenes objects in another order;
    waiting for a CUDA device (it need not be there, see `check_never_waits`); and `torch.compile(fullgraph=True)`.
    Where there is a CUDA device, the CPU must answer as it does: indices exactly, but for images where logits larger
    by one part in 100,000 change them too.

    Args:
        assigner: called with priors, targets and predictions; gives one assignment or a tuple of several. One that
            draws samples must take everybody.
        reference: the same written independently, compared on all scenes: indices exactly, scores to 1e-5.
        scenes: how many random ones.
        order: whether objects may change places where none tie (not so where the last one listed wins).
        waits: whether it may wait for the device, as a solver on the host does.
        compile: whether to compile it, which takes seconds.
        device: where to try all of this, "cpu" or "cuda".
        seed: of the first scene.

    Raises:
        AssertionError: with the name of the assigner, the scene and what is wrong.
        ValueError: it is a class instead of an object.

    >>> from boxwright.assigners import ATSSAssigner
    >>> check_assigner(ATSSAssigner(), scenes=2, compile=False)
    """
    if isinstance(assigner, type):
        raise ValueError(f"pass an object, {assigner.__name__}(), instead of the class")
    numbers, fitted = range(seed, seed + scenes), {"objects that nearly fill a prior each": fitted_scene(seed)}
    tried = {f"random_scene({n}, hostile={n % 2 == 0})": random_scene(n, hostile=n % 2 == 0) for n in numbers}
    usual = {f"random_scene({n}, hostile=False)": random_scene(n, hostile=False) for n in numbers}
    for note, scene in (tried | fitted).items():
        trial = _Trial(assigner, _moved(scene, device), note)
        trial.survives()
        if device == "cuda" and not waits:
            trial.waits_for_nothing()
        if reference is not None:
            trial.compare("differs from the reference", _answers(reference(*trial.scene)), tolerance=1e-5)
    trial.matches_something()
    for note, scene in (usual | fitted).items() if order else ():
        _Trial(assigner, _moved(scene, device), note).does_not_depend_on_order()
    ordinary = _moved(random_scene(seed, hostile=False), device)
    _Trial(assigner, _covered(ordinary), "regions to ignore on priors").is_sound()
    if not waits:
        _Trial(
            assigner, _moved(crowded_scene(seed), device), "two images with up to five objects"
        ).would_wait_for_nothing()
    if compile:
        _Trial(assigner, ordinary, f"random_scene({seed}, hostile=False)").compiles()


class _Trial:
    """An assigner, a scene, and its answers there."""

    def __init__(self, assigner: Assigner, scene: Scene, note: str) -> None:
        self.assigner, self.scene = assigner, scene
        self.device = scene.targets.boxes.device.type
        self.name = f"{getattr(assigner, '__name__', type(assigner).__name__)} ({note})"
        self.before = pickle.dumps(_tensors(scene))
        self.answers = self._asked()
        for answer in self.answers:
            kind = type(answer)
            self._claim(kind is Assignment, f"returns {kind.__name__} instead of an Assignment, or a tuple of them")

    def _asked(self) -> list[Assignment]:
        try:
            return _answers(self.assigner(*self.scene))
        except MissingPackageError:
            raise
        except Exception as error:
            priors, targets, _ = self.scene
            images, objects = targets.labels.shape
            where = f"{images} images, {len(priors)} priors and {objects} objects"
            raise AssertionError(f"{self.name}: {where} raise {type(error).__name__}: {error}") from error

    def survives(self) -> None:
        self.is_sound()
        self.keeps_its_inputs()
        self.needs_what_it_says()
        self.looks_the_same_in_other_settings()
        self.looks_the_same_on_the_other_device()

    def matches_something(self) -> None:
        self._claim(any(answer.positive.any() for answer in self.answers), "matches nothing")

    def is_sound(self) -> None:
        priors, targets, _ = self.scene
        for index, score in ((answer.gt_index, answer.score) for answer in self.answers):
            for what, tensor, dtype in (("gt_index", index, torch.int64), ("score", score, torch.float32)):
                shape = (len(targets), len(priors))
                self._claim(tensor.shape == shape, f"{what} has shape {tuple(tensor.shape)} instead of {shape}")
                self._claim(tensor.dtype == dtype, f"{what} is {tensor.dtype} instead of {dtype}")
            objects = targets.labels.shape[1]
            self._claim(index.ge(IGNORED).all() and index.lt(max(objects, 1)).all(), "gt_index is out of range")
            self._claim(score.isfinite().all() and score.ge(0).all(), "a score is negative or not finite")
            self._claim(not score[index < 0].any(), "a prior without an object has a score")
            self._claim(score.le(1 + 1e-6).all(), "a score is above 1")
            matched = torch.cat([targets.objects, targets.objects.new_zeros(len(targets), 1)], dim=1)
            real = matched.gather(1, index.clamp(min=0))
            self._claim(real[index >= 0].all(), "a prior is matched with padding or with a crowd region")

    def keeps_its_inputs(self) -> None:
        self._claim(pickle.dumps(_tensors(self.scene)) == self.before, "changes its inputs in place")
        self._try("gives two answers to the same call", self.scene)

    def needs_what_it_says(self) -> None:
        """Only what needs predictions gets them, and no gradient flows from its scores."""
        priors, targets, predictions = self.scene
        if not getattr(self.assigner, "needs_predictions", True):
            try:
                found = _answers(self.assigner(priors, targets, None))
            except Exception as error:
                said = f"needs_predictions is False, but without predictions it raises {type(error).__name__}: {error}"
                raise AssertionError(f"{self.name}: {said}") from error
            self.compare("needs_predictions is False, but it looks at them", found)
        trained = predictions.map(lambda tensor: tensor.detach().requires_grad_())
        with torch.enable_grad():
            answers = _answers(self.assigner(priors, targets, trained))
        free = not any(answer.score.requires_grad for answer in answers)
        self._claim(free, "a score carries a gradient, which @torch.no_grad() keeps out of the targets")

    def looks_the_same_in_other_settings(self) -> None:
        priors, targets, predictions = self.scene
        for elements in (1, 1000):
            with mock.patch.dict(BLOCK_ELEMENTS, {self.device: elements}):
                self._try(f"shows blocks of {elements} pairs", self.scene)
        with host_may_not_look():
            self._try("answers otherwise where the host may not look at values", self.scene)
        self._try("shows padding", Scene(priors, _padded(targets), predictions))
        turned = _answers(self.assigner(priors, targets.map(_flip), predictions.map(_flip)))
        self.compare("depends on the order of images", [answer.map(_flip) for answer in turned])
        for image in range(len(targets)):
            self._looks_the_same_alone(slice(image, image + 1))
        if not targets.crowd.any():
            self._try("looks for crowd", Scene(priors, replace(targets, has_crowd=False), predictions))
        double = targets.map(lambda t: t.double() if t.is_floating_point() else t)
        self._try("sees boxes in float64 differently", Scene(priors, double, predictions), tolerance=1e-5)
        low = predictions.map(Tensor.bfloat16)
        rounded = _Trial(self.assigner, Scene(priors, targets, low.map(Tensor.float)), "predictions rounded")
        rounded._try("sees predictions in bfloat16 differently", Scene(priors, targets, low), tolerance=1e-5)

    def _looks_the_same_alone(self, image: slice) -> None:
        priors, targets, predictions = self.scene
        alone = Scene(priors, targets.map(lambda t: t[image]), predictions.map(lambda t: t[image]))
        one = _Trial(self.assigner, alone, self.name.partition("(")[2].rstrip(")"))
        batched = [answer.map(lambda t: t[image]) for answer in self.answers]
        one.compare("depends on the other images", batched, tolerance=1e-5)

    def looks_the_same_on_the_other_device(self) -> None:
        if not torch.cuda.is_available():
            return
        there = _moved(self.scene, "cpu" if self.device == "cuda" else "cuda")
        found = [answer.to(self.device) for answer in _answers(self.assigner(*there))]
        same = all(torch.equal(a.gt_index, b.gt_index) for a, b in zip(self.answers, found, strict=True))
        images = None if same else self._steady_images()
        self.compare("differs between CPU and CUDA", found, tolerance=1e-5, images=images)

    def does_not_depend_on_order(self) -> None:
        priors, targets, predictions = self.scene
        order = torch.arange(targets.labels.shape[1], device=self.device).flip(0)
        found = _answers(self.assigner(priors, targets.map(lambda t: t[:, order]), predictions))
        if len(order):
            found = [replace(a, gt_index=a.gt_index.where(~a.positive, order[a.gt_index.clamp(min=0)])) for a in found]
        self.compare("depends on the order of objects", found)

    def would_wait_for_nothing(self) -> None:
        try:
            check_never_waits(self.assigner, *self.scene)
        except AssertionError as error:
            raise AssertionError(f"{self.name}: {error}") from error

    def waits_for_nothing(self) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.assigner(*self.scene)
        except RuntimeError as error:
            raise AssertionError(f"{self.name}: waits for the device ({error})") from error
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def compiles(self) -> None:
        torch.compiler.reset()
        try:
            found = _answers(torch.compile(self.assigner, fullgraph=True, backend="aot_eager")(*self.scene))
        except torch._dynamo.exc.TorchDynamoException as error:
            raise AssertionError(f"{self.name}: does not compile in one graph: {error}") from error
        self.compare("answers otherwise when compiled", found, tolerance=1e-5)

    def compare(
        self, complaint: str, found: list[Assignment], tolerance: float = 0.0, images: Tensor | None = None
    ) -> None:
        """Hold other answers against those of the trial, in all images or in those marked (B,)."""
        for expected, actual in zip(self.answers, found, strict=True):
            if images is not None:
                expected, actual = (answer.map(lambda t: t[images]) for answer in (expected, actual))
            other = int((expected.gt_index != actual.gt_index).sum())
            self._claim(other == 0, f"{complaint}: {other} of {expected.gt_index.numel()} priors are matched otherwise")
            gap = (expected.score - actual.score).abs().max().item() if expected.score.numel() else 0.0
            self._claim(gap <= tolerance, f"{complaint}: scores differ by {gap:.3g}")

    def _steady_images(self) -> Tensor:
        """(B,) bool: images where the last bits of the logits, in which devices differ, decide no match."""
        priors, targets, predictions = self.scene
        steady = torch.ones(len(targets), dtype=torch.bool, device=self.device)
        for step in (-1e-5, -1e-6, 1e-6, 1e-5):  # equal logits stay equal: a tie is no excuse
            larger = predictions.map(lambda t, step=step: t * (1 + step))  # type: ignore[misc]
            nudged = replace(larger, params=predictions.params, boxes=predictions.boxes)
            for answer, other in zip(self.answers, _answers(self.assigner(priors, targets, nudged)), strict=True):
                steady &= (answer.gt_index == other.gt_index).all(1)
        return steady

    def _try(self, complaint: str, scene: Scene, tolerance: float = 0.0) -> None:
        self.compare(complaint, _answers(self.assigner(*scene)), tolerance)

    def _claim(self, holds: bool | Tensor, complaint: str) -> None:
        claim(holds, f"{self.name}: {complaint}")


def _answers(result: Assignment | tuple[Assignment, ...]) -> list[Assignment]:
    return list(result) if isinstance(result, tuple) else [result]


def _tensors(scene: Scene) -> list[Tensor]:
    found: list[Tensor] = []
    for part in scene:
        part.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def _moved(scene: Scene, device: str) -> Scene:
    priors, targets, predictions = scene
    return Scene(priors.to(device), targets.to(device), predictions.to(device))


def _flip(tensor: Tensor) -> Tensor:
    return tensor.flip(0)


def _covered(scene: Scene) -> Scene:
    """Put a region to ignore on every seventh prior, and nothing else into the scene."""
    priors, targets, predictions = scene
    boxes = priors.boxes[::7].expand(len(targets), -1, 4)
    crowd = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    return Scene(priors, Targets(boxes, crowd.long(), crowd, crowd), predictions)


def _padded(targets: Targets) -> Targets:
    """Add three entries that are no objects, though their boxes and labels look like some."""
    images = len(targets)
    nothing = targets.valid.new_zeros(images, 3)
    boxes = targets.boxes.new_tensor([7.0, 7.0, 30.0, 30.0]).expand(images, 3, 4)
    return Targets(
        torch.cat([targets.boxes, boxes], dim=1),
        torch.cat([targets.labels, nothing.long() + 1], dim=1),
        torch.cat([targets.valid, nothing], dim=1),
        torch.cat([targets.crowd, nothing], dim=1),
    )
