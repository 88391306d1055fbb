"""Curves of a run as one HTML file that needs no network."""

from collections import defaultdict
from pathlib import Path

from boxwright.engine.run import Run
from boxwright.files import write_text

__all__ = ["write_curves"]

_PANELS = {"loss": "training loss", "lr": "learning rate", "AP": "validation AP"}
_NOT_LOSSES = {"step", "epoch", "lr", "images_per_s", "skipped_steps"}


def write_curves(run: Run) -> Path:
    """Draw loss terms, learning rate and AP over the steps of a run into `curves.html`; return its path."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.05, subplot_titles=[*_PANELS.values()])
    for (row, name), points in _series(run).items():
        steps, values = zip(*points, strict=True)
        mode = "lines+markers" if row == 3 else "lines"
        figure.add_trace(go.Scatter(x=steps, y=values, name=name, mode=mode), row=row, col=1)
    figure.update_yaxes(type="log", row=1, col=1)
    figure.update_xaxes(title="optimiser step", row=3, col=1)
    figure.update_layout(template="plotly_white", height=900, title=f"{run.recipe.name} ({run.path.name})")
    path = run.path / "curves.html"
    write_text(path, figure.to_html(include_plotlyjs=True))
    return path


def _series(run: Run) -> dict[tuple[int, str], list[tuple[int, float]]]:
    """Points (step, value) by panel and name."""
    series: dict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)
    for record in run.metrics():
        if record["kind"] == "train":
            values = {(1, name): record[name] for name in record.keys() - _NOT_LOSSES - {"kind"}}
            values[2, "lr"] = record["lr"]
        else:
            values = {(3, name): record.get(name) for name in ("AP", "AP50", "AP75")}
        for key, value in sorted(values.items()):
            if value is not None:
                series[key].append((record["step"], value))
    return series
