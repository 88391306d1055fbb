"""How a recipe optimises: optimiser, learning rate over the epochs, training loop."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer, model_validator

from boxwright.recipes.parts import NonNegative, Positive, Probability, Section

__all__ = ["Kinds", "OptimizerConfig", "ScheduleConfig", "TrainConfig"]


class Kinds(Section):
    """A section whose kinds, told apart by `type`, share most fields; what only another kind reads has no place in it.

    Attributes:
        only: fields that one kind alone reads, with that kind.
        scaled: fields that all kinds read, but whose usual values are others for each.
    """

    only: ClassVar[dict[str, str]]
    scaled: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def shared(cls) -> frozenset[str]:
        """Fields that mean the same to all kinds, so that they outlive a change of `type`."""
        return frozenset(cls.model_fields) - cls.only.keys() - cls.scaled - {"type"}

    @model_validator(mode="after")
    def _without_other_kinds(self) -> Self:
        kind = vars(self)["type"]
        for name, reader in self.only.items():
            if reader != kind and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} is read by type {reader} alone, and the type is {kind}: leave it out, or change the type"
                )
        return self

    @model_serializer(mode="wrap")
    def _written(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = written(self)
        return {name: value for name, value in values.items() if self.only.get(name, values["type"]) == values["type"]}


class OptimizerConfig(Kinds):
    """SGD or AdamW and its parameter groups."""

    type: Literal["sgd", "adamw"]
    lr: Positive
    weight_decay: NonNegative = Field(description="part of the gradient for sgd, beside it for adamw")
    momentum: Probability = 0.9
    nesterov: bool = False
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    decay_norm_and_bias: bool = Field(True, description="whether weight decay also acts on norm layers and biases")
    backbone_lr_scale: NonNegative = 1.0

    only: ClassVar = {"momentum": "sgd", "nesterov": "sgd", "betas": "adamw"}
    scaled: ClassVar = frozenset({"lr", "weight_decay"})


class ScheduleConfig(Kinds):
    """Learning rate over the epochs."""

    type: Literal["step", "cosine"]
    epochs: PositiveInt
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_start: Probability = Field(0.001, description="first factor of the learning rate")
    milestones: tuple[PositiveInt, ...] = Field((), description="epochs after which `step` multiplies by gamma")
    gamma: Positive = 0.1
    final: Probability = Field(0.0, description="factor of the learning rate at the end of `cosine`")

    only: ClassVar = {"milestones": "step", "gamma": "step", "final": "cosine"}

    @model_validator(mode="after")
    def _milestones_in_range(self) -> Self:
        if any(milestone >= self.epochs for milestone in self.milestones):
            raise ValueError(f"milestones {self.milestones} must be below epochs = {self.epochs}")
        return self


class TrainConfig(Section):
    """The training loop."""

    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16-mixed where the device computes it natively, else 32-true"
    )
    accumulate: PositiveInt = Field(1, description="micro-batches per optimiser step; batch_size is their total")
    clip_norm: Positive | None = None
    ema: Probability | None = Field(None, description="decay of the exponential moving average of the weights")
    eval_every: PositiveInt = Field(1, description="epochs between evaluations")
    seed: int = 0
