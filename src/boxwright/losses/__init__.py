"""Losses: pure functions of tensors with thin modules, alike in signature, targets, weights and reduction."""

from boxwright.losses.alrp import ALRPLoss, alrp_loss, average_lrp
from boxwright.losses.class_weights import balanced, class_weights, effective_number
from boxwright.losses.cross_entropy import (
    SigmoidCrossEntropyLoss,
    SoftmaxCrossEntropyLoss,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from boxwright.losses.distribution import (
    DistributionFocalLoss,
    FineGrainedLocalizationLoss,
    distribution_focal_loss,
    fine_grained_localization_loss,
    integral,
    localization_distillation_loss,
    weighting_function,
)
from boxwright.losses.focal import SigmoidFocalLoss, SoftmaxFocalLoss, sigmoid_focal_loss, softmax_focal_loss
from boxwright.losses.gaussian import GaussianLoss, gaussian_loss
from boxwright.losses.ghm import GHMCLoss, GHMRLoss
from boxwright.losses.iou import CIoULoss, DIoULoss, GIoULoss, IoULoss, ciou_loss, diou_loss, giou_loss, iou_loss
from boxwright.losses.iou_shape import (
    BoundedIoULoss,
    EIoULoss,
    MPDIoULoss,
    bounded_iou_loss,
    eiou_loss,
    mpdiou_loss,
)
from boxwright.losses.l1 import (
    BalancedL1Loss,
    L1Loss,
    SigmaSmoothL1Loss,
    SmoothL1Loss,
    balanced_l1_loss,
    l1_loss,
    sigma_smooth_l1_loss,
    smooth_l1_loss,
)
from boxwright.losses.long_tail import EqualizedV2Loss, FederatedLoss, SeesawLoss
from boxwright.losses.pointwise import ClassificationLoss
from boxwright.losses.quality_focal import (
    MatchabilityAwareLoss,
    QualityFocalLoss,
    TaskAlignedFocalLoss,
    VarifocalLoss,
    matchability_aware_loss,
    quality_focal_loss,
    task_aligned_focal_loss,
    varifocal_loss,
)
from boxwright.losses.rank_sort import RankSortLoss, rank_sort_loss
from boxwright.losses.ranking import APLoss, ap_loss, average_precision
from boxwright.losses.reduction import BACKGROUND, IGNORED, Reduction
from boxwright.losses.siou import SIoULoss, siou_loss
from boxwright.losses.wasserstein import NormalizedWassersteinLoss, normalized_wasserstein_loss
from boxwright.losses.wise_iou import WiseIoULoss, wise_iou_loss

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "ALRPLoss",
    "APLoss",
    "BalancedL1Loss",
    "BoundedIoULoss",
    "CIoULoss",
    "ClassificationLoss",
    "DIoULoss",
    "DistributionFocalLoss",
    "EIoULoss",
    "EqualizedV2Loss",
    "FederatedLoss",
    "FineGrainedLocalizationLoss",
    "GHMCLoss",
    "GHMRLoss",
    "GIoULoss",
    "GaussianLoss",
    "IoULoss",
    "L1Loss",
    "MPDIoULoss",
    "MatchabilityAwareLoss",
    "NormalizedWassersteinLoss",
    "QualityFocalLoss",
    "RankSortLoss",
    "Reduction",
    "SIoULoss",
    "SeesawLoss",
    "SigmaSmoothL1Loss",
    "SigmoidCrossEntropyLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SoftmaxCrossEntropyLoss",
    "SoftmaxFocalLoss",
    "TaskAlignedFocalLoss",
    "VarifocalLoss",
    "WiseIoULoss",
    "alrp_loss",
    "ap_loss",
    "average_lrp",
    "average_precision",
    "balanced",
    "balanced_l1_loss",
    "bounded_iou_loss",
    "ciou_loss",
    "class_weights",
    "diou_loss",
    "distribution_focal_loss",
    "effective_number",
    "eiou_loss",
    "fine_grained_localization_loss",
    "gaussian_loss",
    "giou_loss",
    "integral",
    "iou_loss",
    "l1_loss",
    "localization_distillation_loss",
    "matchability_aware_loss",
    "mpdiou_loss",
    "normalized_wasserstein_loss",
    "quality_focal_loss",
    "rank_sort_loss",
    "sigma_smooth_l1_loss",
    "sigmoid_cross_entropy",
    "sigmoid_focal_loss",
    "siou_loss",
    "smooth_l1_loss",
    "softmax_cross_entropy",
    "softmax_focal_loss",
    "task_aligned_focal_loss",
    "varifocal_loss",
    "weighting_function",
    "wise_iou_loss",
]
