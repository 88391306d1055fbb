"""Draws the pictures of ranking.md: `python docs/ranking_pictures.py` writes docs/pictures/ranking-*.svg."""

from pathlib import Path

import torch

from boxwright.losses import ap_loss, sigmoid_focal_loss

FOLDER = Path(__file__).with_name("pictures")
WIDTH, HEIGHT = 640, 220
LOW, HIGH = -4.0, 4.0
BLUE, RED, GREY = "#2563eb", "#dc2626", "#94a3b8"


def across(score: float) -> float:
    return 20 + (score - LOW) / (HIGH - LOW) * (WIDTH - 40)


def svg(parts: list[str]) -> str:
    box = f"0 0 {WIDTH} {HEIGHT}"
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif" font-size="12">'
    return "\n".join([frame, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts, "</svg>\n"])


def line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1.5, dash: str = "") -> str:
    style = f'stroke="{color}" stroke-width="{width}"' + (f' stroke-dasharray="{dash}"' if dash else "")
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def text(x: float, y: float, words: str, color: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}">{words}</text>'


def curve(points: list[tuple[float, float]], color: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'


def bins() -> str:
    """Three ramps, the bins between their ends, and their sum, which is straight in every bin."""
    positives, delta = [-1.2, 0.4, 2.0], 1.0
    title = "one ramp per positive (blue); their ends cut the line into bins; the sum (red) is straight in each"
    parts = [text(20, 18, title)]
    ends = sorted({p + side for p in positives for side in (-delta, delta)})
    parts += [line(across(end), 30, across(end), 195, GREY, 1, "4 3") for end in ends]
    grid = [LOW + step * (HIGH - LOW) / 400 for step in range(401)]

    def ramp(x: float, p: float) -> float:
        return min(max((x - p) / (2 * delta) + 0.5, 0.0), 1.0)

    parts += [curve([(across(x), 190 - 45 * ramp(x, p)) for x in grid], BLUE) for p in positives]
    parts.append(curve([(across(x), 190 - 45 * sum(ramp(x, p) for p in positives)) for x in grid], RED))
    random = torch.Generator().manual_seed(0)
    background = (torch.randn(60, generator=random) * 1.3 - 1.2).clamp(LOW, HIGH).tolist()
    parts += [f'<circle cx="{across(x):.1f}" cy="204" r="2.5" fill="{GREY}" fill-opacity="0.7"/>' for x in background]
    return svg([*parts, text(20, 218, "background"), text(WIDTH - 70, 218, "score →")])


def gradients() -> str:
    """What each entry of one scene is told by AP-Loss and by the focal loss."""
    logits = torch.tensor([2.6, 0.3, -1.0, 1.2, -0.4, -1.4, -2.0, -2.5, -2.9, -3.3, -3.7], requires_grad=True)
    targets = (torch.arange(len(logits)) < 3).float()
    losses = {"AP-Loss": ap_loss(logits, targets), "focal loss": sigmoid_focal_loss(logits, targets, reduction="sum")}
    parts = [
        text(
            20,
            18,
            "push on every score: positives (blue) up, background (red) down; each loss scaled to its largest",
        )
    ]
    for row, (name, loss) in enumerate(losses.items()):
        (push,) = torch.autograd.grad(-loss, logits)
        base = 95 + 90 * row
        parts += [line(20, base, WIDTH - 20, base, GREY, 1), text(20, base - 48, name)]
        for score, amount, positive in zip(logits.tolist(), (push / push.abs().max()).tolist(), targets, strict=True):
            color, at = (BLUE, base - 9) if positive else (RED, base + 9)
            parts.append(f'<circle cx="{across(score):.1f}" cy="{base}" r="4" fill="{color}"/>')
            parts.append(line(across(score), at, across(score) + 60 * amount, at, color, 3))
    return svg([*parts, text(WIDTH - 70, 215, "score →")])


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "ranking-bins.svg").write_text(bins())
    (FOLDER / "ranking-gradients.svg").write_text(gradients())


if __name__ == "__main__":
    main()
