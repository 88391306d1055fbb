"""What a person sees while a detector trains."""

import io

from rich.console import Console

from boxwright.engine.progress import TrainingProgress


def test_plain_lines_where_there_is_no_terminal():
    output = io.StringIO()
    with TrainingProgress(Console(file=output, width=40), total_steps=100, interval=0) as progress:
        progress.step("epoch 1/2", 50, {"classification": 0.5, "box": 0.25}, 0.001, 12.34)
        progress.line("epoch 1/2  AP 0.500")
    first, second = output.getvalue().splitlines()
    assert first.startswith(
        "epoch 1/2  step 50/100  loss 0.7500 (classification 0.5000, box 0.2500)  lr 1.00e-03  12.3 images/s  left 0:0"
    )
    assert second == "epoch 1/2  AP 0.500"


def test_plain_lines_are_rare():
    output = io.StringIO()
    with TrainingProgress(Console(file=output), total_steps=100, interval=60) as progress:
        for step in range(50):
            progress.step("epoch 1/2", step, {"box": 0.25}, 0.001, 12.34)
    assert output.getvalue() == ""


def test_a_bar_in_a_terminal():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=160)
    with TrainingProgress(console, total_steps=100, done_steps=20) as progress:
        progress.step("epoch 1/2", 50, {"box": 0.25}, 0.001, 12.34)
        progress.line("epoch 1/2  AP 0.500")
    text = output.getvalue()
    assert "50/100" in text
    assert "loss 0.2500 (box 0.2500)" in text
    assert "left" in text
    assert "AP 0.500" in text


def test_silence_on_the_other_processes():
    with TrainingProgress(None, total_steps=100, interval=0) as progress:
        progress.step("epoch 1/2", 50, {"box": 0.25}, 0.001, 12.34)
        progress.line("nothing")
