"""The Arrow file behind a data index: one row per image, memory-mapped, so that many processes share it."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from boxwright.data.annotations import BoxTable, ImageEntry
from boxwright.errors import DataError
from boxwright.files import atomic_path

VERSION = 2
SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "folder": pa.int32(),
        "image_id": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "boxes": pa.list_(pa.list_(pa.float32(), 4)),
        "labels": pa.list_(pa.int32()),
        "crowd": pa.list_(pa.uint8()),
        "area": pa.list_(pa.float32()),
    }
)
_META = b"boxwright"


class Views(NamedTuple):
    """The columns of an index without copies: per image, and per box with `offsets` (images + 1)."""

    names: pa.StringArray
    folder: NDArray[np.int32]
    image_id: NDArray[np.int64]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    offsets: NDArray[np.int32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    crowd: NDArray[np.uint8]
    area: NDArray[np.float32]


class Store:
    """An index file (or its bytes, where no cache can be written), opened in each process when first used."""

    def __init__(self, source: Path | bytes, checksum: str) -> None:
        self.source, self.checksum = source, checksum
        self._views: Views | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_views": None}

    @property
    def views(self) -> Views:
        """The columns; raises `DataError` when another process has rebuilt the file from other annotations."""
        if self._views is None:
            batch = _open(self.source)
            if read_meta(batch)["checksum"] != self.checksum:
                raise DataError(f"{self.source!s:.200}: the data set changed while it was in use; start again")
            self._views = _views(batch)
        return self._views


def cache_file(identity: str) -> Path:
    """Return the file that caches an index: in BOXWRIGHT_CACHE, XDG_CACHE_HOME/boxwright or ~/.cache/boxwright."""
    folder = os.environ.get("BOXWRIGHT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(identity.encode()).hexdigest()[:24]
    return (Path(folder) if folder else Path(base) / "boxwright") / "index" / f"{name}.arrow"


def fingerprint(identity: str, sources: Iterable[Path | str]) -> str:
    """Return a digest of what was asked, this code's version, and every source file's size and time."""
    digest = hashlib.sha256(f"{VERSION}\0{identity}".encode())
    for source in sources:
        try:
            stat = os.stat(source)  # not Path.stat: these may be strings, of which many are made faster
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except (OSError, ValueError):  # the latter of a name that no file can have
            state = "missing"
        digest.update(f"\0{source}\0{state}".encode(errors="surrogatepass"))
    return digest.hexdigest()


def to_batch(images: list[ImageEntry], boxes: BoxTable, meta: dict[str, Any]) -> pa.RecordBatch:
    """Return images and their boxes as one Arrow batch whose metadata holds `meta` and the data's checksum."""
    order = np.argsort(boxes.owner, kind="stable")
    counts = np.bincount(boxes.owner, minlength=len(images))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    corners = pa.array(boxes.xyxy[order].astype(np.float32).reshape(-1))

    def per_box(values: NDArray[Any], dtype: type) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, pa.array(values[order].astype(dtype)))

    columns = [pa.array([getattr(e, f) for e in images], SCHEMA.field(f).type) for f in SCHEMA.names[:5]]
    columns += [
        pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(corners, 4)),
        per_box(boxes.label, np.int32),
        per_box(boxes.crowd, np.uint8),
        per_box(boxes.area, np.float32),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA.with_metadata(None))
    return batch.replace_schema_metadata({_META: json.dumps(meta | {"checksum": _checksum(batch, meta)})})


def save(batch: pa.RecordBatch, path: Path) -> None:
    """Write a batch atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_bytes(batch))


def to_bytes(batch: pa.RecordBatch) -> bytes:
    """Return a batch as an Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def load(path: Path, key: str) -> dict[str, Any] | None:
    """Return the metadata of a cache file if it is whole, ours and of this key; None when it must be rebuilt."""
    try:
        batch = _open(path)
        batch.validate(full=True)
        meta = read_meta(batch)
        rest = {name: value for name, value in meta.items() if name != "checksum"}
        good = meta["checksum"] == _checksum(batch, rest) and meta["key"] == key
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None
    return meta if good else None


def read_meta(batch: pa.RecordBatch) -> dict[str, Any]:
    """Return what `to_batch` was given as `meta`, with the checksum."""
    meta: dict[str, Any] = json.loads(batch.schema.metadata[_META])
    return meta


def _open(source: Path | bytes) -> pa.RecordBatch:
    """Open an index file memory-mapped, or from its bytes; raises ValueError when it is not one batch of our schema."""
    stream = pa.BufferReader(source) if isinstance(source, bytes) else pa.memory_map(str(source))
    reader = pa.ipc.open_file(stream)
    if reader.num_record_batches != 1 or not reader.schema.equals(SCHEMA) or not reader.schema.metadata:
        raise ValueError("not an index of this version")
    return reader.get_batch(0)


def _checksum(batch: pa.RecordBatch, meta: dict[str, Any]) -> str:
    """Return a digest over metadata and column buffers, which catches damage that still parses."""
    digest = hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16)
    for column in batch.columns:
        for buffer in column.buffers():
            digest.update(buffer or b"\0")
    return digest.hexdigest()


def _views(batch: pa.RecordBatch) -> Views:
    boxes = batch["boxes"]
    return Views(
        names=batch["name"],
        folder=batch["folder"].to_numpy(),
        image_id=batch["image_id"].to_numpy(),
        width=batch["width"].to_numpy(),
        height=batch["height"].to_numpy(),
        offsets=boxes.offsets.to_numpy(),
        boxes=boxes.values.values.to_numpy().reshape(-1, 4),
        labels=batch["labels"].values.to_numpy(),
        crowd=batch["crowd"].values.to_numpy(),
        area=batch["area"].values.to_numpy(),
    )
