import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from boxwright.data.dataset import DetectionDataset, Sample, collate
from boxwright.data.loader import BatchOrder, build_loader, lost_workers, verify_images
from boxwright.data.records import ImageRecord
from boxwright.data.synth import SyntheticScenes
from boxwright.data.transforms import evaluation_transform, training_transform
from boxwright.errors import DataError, RunError


@pytest.fixture
def scenes() -> DetectionDataset:
    source = SyntheticScenes(10, size=64)
    augment = training_transform(64, scale_jitter=(0.6, 1.6), iou_crop=0.5, photometric=1.0)
    return DetectionDataset(source, augment, read=source.draw, seed=3)


@pytest.fixture
def files(tmp_path) -> list[ImageRecord]:
    """Five pictures on disk, of which number 2 is broken behind its header."""
    records = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.effect_noise((40, 30), 60).convert("RGB").save(path)
        records.append(record_of(path, index))
    data = records[2].path.read_bytes()
    records[2].path.write_bytes(data[: len(data) // 2])
    return records


def record_of(path: Path, index: int) -> ImageRecord:
    box = torch.tensor([[5.0, 5, 25, 20]])
    return ImageRecord(path, index, 40, 30, box, torch.tensor([index]), torch.tensor([False]), torch.tensor([300.0]))


def same(one, other) -> bool:
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.targets.boxes, other.targets.boxes)
        and one.image_ids == other.image_ids
    )


def test_a_sample_depends_on_seed_epoch_and_index_alone(scenes):
    torch.manual_seed(5)
    one = scenes[(2, 4)]
    scenes[(0, 1)]
    torch.manual_seed(6)
    other = scenes[(2, 4)]

    assert torch.equal(one.image, other.image)
    assert torch.equal(one.boxes, other.boxes)
    assert scenes[(3, 4)].image.shape != one.image.shape or not torch.equal(scenes[(3, 4)].image, one.image)


def test_loading_leaves_the_random_numbers_of_the_training_alone(scenes):
    state = torch.get_rng_state()
    list(build_loader(scenes, 4, shuffle=True).epoch(1))
    list(build_loader(scenes, 4, shuffle=True, workers=1).epoch(1))

    assert torch.equal(torch.get_rng_state(), state)


def test_batches_do_not_depend_on_workers_or_on_epochs_read_before(scenes):
    alone = build_loader(scenes, 4, shuffle=True, seed=1)
    expected = list(alone.epoch(2))
    helped = build_loader(scenes, 4, shuffle=True, seed=1, workers=2)
    next(helped.epoch(0))  # left early

    assert all(same(one, other) for one, other in zip(helped.epoch(2), expected, strict=True))
    assert not same(next(iter(alone.epoch(3))), expected[0])


@pytest.mark.parametrize("count", [1, 3, 7, 8, 12, 23])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_the_batches_of_one(count, drop_last):
    one = BatchOrder(count, 4, shuffle=True, seed=9, drop_last=drop_last)
    two = [BatchOrder(count, 2, shuffle=True, seed=9, rank=r, world_size=2, drop_last=drop_last) for r in (0, 1)]
    for epoch in (0, 1):
        for order in (one, *two):
            order.epoch = epoch
        whole, *shares = (list(order) for order in (one, *two))

        assert len(shares[0]) == len(shares[1]) == len(whole) == len(one) == len(two[0]) >= 1
        for batch, first, second in zip(whole, *shares, strict=True):
            assert len(first) == len(second)
            filled = 0 if len(batch) % 2 == 0 else 1
            assert len(first + second) == len(batch) + filled
            assert set(batch) <= set(first + second)
        if drop_last and count >= 4:
            assert all(len(batch) == 4 for batch in whole)
            assert len({index for batch in whole for _, index in batch}) == count // 4 * 4
        else:
            assert {index for batch in whole for _, index in batch} == set(range(count))


@pytest.mark.parametrize("count", [1, 7, 12])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_sees_every_image_once_in_order(count, world_size):
    orders = [BatchOrder(count, 2, shuffle=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    seen = [index for order in orders for batch in order for _, index in batch]

    assert sorted(seen) == list(range(count))
    assert all(len(list(order)) == len(order) for order in orders)


def test_an_empty_data_set_is_named():
    with pytest.raises(DataError, match="no images"):
        BatchOrder(0, 2, shuffle=False)


def sample_of(height: int, width: int, boxes: torch.Tensor, original: tuple[int, int]) -> Sample:
    image = torch.full((3, height, width), 7, dtype=torch.uint8)
    labels = torch.arange(len(boxes))
    return Sample(image, boxes, labels, labels > 0, image_id=height, original_size=original)


def test_collate_pads_to_a_common_multiple_of_32():
    box = torch.tensor([[1.0, 2, 30, 20], [0, 0, 5, 5]])
    batch = collate([sample_of(20, 40, box, (40, 80)), sample_of(33, 10, torch.zeros(0, 4), (33, 10))])

    assert batch.images.shape == (2, 3, 64, 64)
    assert (batch.images[0, :, :20, :40] == 7).all()
    assert batch.images[0].eq(7).sum() == 3 * 20 * 40
    assert batch.images[1].eq(7).sum() == 3 * 33 * 10
    assert batch.sizes.tolist() == [[20, 40], [33, 10]]
    assert batch.targets.valid.tolist() == [[True, True], [False, False]]
    assert batch.targets.crowd.tolist() == [[False, True], [False, False]]
    assert batch.image_ids == (20, 33)
    assert len(batch) == 2
    assert collate([sample_of(20, 40, box, (40, 80))], square=90).images.shape == (1, 3, 90, 90)
    assert collate([sample_of(20, 100, box, (40, 80))], square=90).images.shape == (1, 3, 96, 128)


def test_boxes_map_back_to_the_stored_image():
    record = SyntheticScenes(4, size=100)[1]
    dataset = DetectionDataset([record], evaluation_transform(64), read=SyntheticScenes(4, size=100).draw)
    batch = collate([dataset[0]])

    assert torch.allclose(batch.to_original(batch.targets.boxes)[0], record.boxes, atol=1e-3)
    outside = torch.tensor([[[-5.0, -5, 90, 10]]])
    assert batch.to_original(outside).tolist() == [[[0, 0, 100, 15.625]]]


def test_a_batch_moves_with_its_targets():
    batch = collate([sample_of(20, 40, torch.zeros(1, 4), (40, 80))]).to("meta")

    assert batch.images.is_meta
    assert batch.targets.boxes.is_meta
    assert batch.image_ids == (20,)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_stops_with_its_name(files, workers):
    dataset = DetectionDataset(files, evaluation_transform(32))

    with pytest.raises(DataError, match=r"2\.png: cannot be decoded") as caught:
        list(build_loader(dataset, 2, workers=workers))
    assert "Traceback" not in str(caught.value)


def test_a_bad_image_is_skipped_and_reported_once_when_asked(files, caplog):
    dataset = DetectionDataset(files, evaluation_transform(32), skip_bad=True)
    loader = build_loader(dataset, 2, shuffle=True)
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            ids = [image_id for batch in loader.epoch(epoch) for image_id in batch.image_ids]
            assert sorted(ids) == [0, 1, 3, 3, 4]  # the next one stands in, so that no batch shrinks

    assert [record.message for record in caplog.records if "2.png" in record.message] == [
        record.message for record in caplog.records
    ]
    assert len(caplog.records) == 1


def test_when_no_image_is_good_skipping_stops_too(files):
    with pytest.raises(DataError, match=r"2\.png"):
        DetectionDataset([files[2]], evaluation_transform(32), skip_bad=True)[0]


def test_verify_reads_headers_and_ends_only(files, tmp_path):
    files[3].path.write_text("no picture")
    whole = files[4].path.read_bytes()
    files[4].path.write_bytes(whole[:50] + bytes(20) + whole[70:])
    findings = verify_images([*files, record_of(tmp_path / "gone.png", 9)])

    assert sorted(findings) == [2, 3, 5]
    assert "3.png" in findings[3]
    assert "gone.png" in findings[5]
    assert sorted(verify_images(files, decode=True)) == [2, 3, 4]


def test_an_image_decoded_smaller_keeps_its_boxes_in_place(tmp_path):
    from functools import partial

    from boxwright.data.dataset import read_record

    path = tmp_path / "big.jpg"
    Image.effect_noise((400, 300), 60).convert("RGB").save(path)
    box = torch.tensor([[50.0, 50, 250, 200]])
    record = ImageRecord(path, 1, 400, 300, box, torch.zeros(1).long(), torch.zeros(1).bool(), torch.ones(1))
    transform = evaluation_transform(64)

    whole = DetectionDataset([record], transform)[0]
    reduced = DetectionDataset([record], transform, read=partial(read_record, enough=48))[0]

    assert torch.equal(whole.boxes, reduced.boxes)
    assert whole.image.shape == reduced.image.shape
    assert reduced.original_size == (300, 400)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="this system has no SIGUSR2")
def test_a_worker_that_is_killed_is_named(scenes):
    """As the system does with the largest process where memory is short."""
    known = multiprocessing.active_children()
    batches = build_loader(scenes, 1, workers=1).epoch(0)
    next(batches)
    (worker,) = (child for child in multiprocessing.active_children() if child not in known)

    def kill():
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        list(batches)

    words = r"has ended \(DataLoader worker .*\); .* use fewer of them: data.workers$"
    with pytest.raises(RunError, match=words), lost_workers():
        kill()
    with pytest.raises(RuntimeError, match="another"), lost_workers():
        raise RuntimeError("another")


def test_workers_leave_the_signals_of_a_job_to_the_main_process(scenes, tmp_path):
    """SLURM tells all processes of a job that its time is over; only one may queue it again."""
    before = signal.signal(signal.SIGUSR2, lambda number, frame: (tmp_path / str(os.getpid())).touch())
    try:
        loader = build_loader(scenes, 2, workers=1)
        batches = loader.epoch(0)
        next(batches)
        [worker] = loader._batches._iterator._workers
        for process in (worker.pid, os.getpid()):
            os.kill(process, signal.SIGUSR2)
        assert len(list(batches)) == 4
        assert worker.is_alive()
        assert [file.name for file in tmp_path.iterdir()] == [str(os.getpid())]
    finally:
        signal.signal(signal.SIGUSR2, before)


KILLED = """
import multiprocessing, os, signal, sys
from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import build_loader
from boxwright.data.synth import SyntheticScenes
from boxwright.data.transforms import evaluation_transform

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    scenes = SyntheticScenes(10, size=64)
    loader = build_loader(DetectionDataset(scenes, evaluation_transform(64), read=scenes.draw), 2, workers=1)
    next(loader.epoch(0))
    print(loader._batches._iterator._workers[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not list its processes in /proc")
@pytest.mark.parametrize("start", ["forkserver", *(pytest.param(s, marks=pytest.mark.slow) for s in ("fork", "spawn"))])
def test_a_worker_ends_with_a_main_process_that_is_killed(tmp_path, start):
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    with subprocess.Popen([sys.executable, script, start], stdout=subprocess.PIPE, text=True) as process:
        worker = Path("/proc", str(int(process.stdout.readline())), "stat")
        assert process.wait() == -signal.SIGKILL
    until = time.monotonic() + 60
    while _runs(worker):
        assert time.monotonic() < until
        time.sleep(0.1)


def _runs(stat: Path) -> bool:
    """Tell whether a process is there and no zombie, which a container whose first process never waits would keep."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
