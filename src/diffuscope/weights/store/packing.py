"""Weights in a quarter of the space: large matrices as int8 with a scale per row, and only trained embedding rows.

The file's metadata describes how each tensor was packed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.errors import InputError, Unquoted, WeightMismatchError, WeightsError, shown
from diffuscope.weights.store import documents, files, headers

FORMAT = "diffuscope packed 1"
SCALE, ROWS = "::scale", "::rows"  # no module's name has colons

SMALL = 4096  # values; a matrix of fewer is not worth a step for each row
TABLE_LIMIT = 1 << 28  # values (1 GiB as float32) of all tensors by rows, whose sizes only the metadata state


@dataclass(frozen=True, slots=True)
class Entry:
    """How one tensor was packed."""

    shape: tuple[int, ...]  # of the unpacked tensor
    int8: bool  # stored as int8 with a float32 scale per row, rather than as floats
    rows: bool  # only some rows are stored, with their indices; the others are zero


def pack(
    tensors: Mapping[str, Tensor], *, seen: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors packed, and the metadata that ``unpack`` needs.

    A tensor of two or more dimensions and at least 4096 values becomes ``round(x / scale)`` with ``scale =
    max|row| / 127`` per row, that is per output, so no value moves by more than half its row's scale. Smaller ones
    become float16, or stay float32 where float16 would overflow. Of the tables named in ``seen`` only the rows with
    the given indices [R] are kept.
    """
    seen = {} if seen is None else seen
    if unknown := seen.keys() - tensors.keys():
        raise InputError("seen", sorted(unknown), "names of the tensors")
    packed: dict[str, Tensor] = {}
    entries: dict[str, Entry] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise InputError("tensors", Unquoted(f"{name!r} with other values"), "finite floats")
        values = tensor.detach().cpu().float()
        if name in seen:
            rows = seen[name].cpu().long().unique()
            if len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < len(values):
                raise InputError("seen", Unquoted(f"rows of {name!r} beyond its ends"), f"0 to {len(values) - 1}")
            packed[name + ROWS] = rows.int()
            values = values[rows]
        entries[name] = Entry(tuple(tensor.shape), tensor.ndim > 1 and tensor.numel() >= SMALL, name in seen)
        if entries[name].int8:
            packed[name], packed[name + SCALE] = _to_int8(values)
        else:
            small = values.half()
            packed[name] = small if small.isfinite().all() else values
    table = {name: asdict(entry) for name, entry in entries.items()}
    return packed, {"format": FORMAT, "packing": json.dumps(table, separators=(",", ":"))}


def unpack(packed: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The unpacked tensors, float32; rows that were dropped are zero."""
    entries = _entries(metadata)
    pieces = dict(packed)
    tensors = {name: _unpack_one(name, entry, pieces) for name, entry in entries.items()}
    if pieces:
        raise WeightMismatchError(
            f"packed file: its metadata does not describe {shown(sorted(pieces)[:3])}; save it again"
        )
    return tensors


def write(path: str | Path, tensors: Mapping[str, Tensor], *, seen: Mapping[str, Tensor] | None = None) -> None:
    """Pack ``tensors`` into a safetensors file."""
    files.write(path, *pack(tensors, seen=seen))


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a packed file, float32."""
    header = headers.read_header(path)
    return unpack(files.read(path, header=header), header.metadata)


def read_any(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file: float32 of a packed one, as they are of any other."""
    header = headers.read_header(path)
    return read(path) if is_packed(header) else files.read(path, header=header)


def is_packed(header: headers.Header) -> bool:
    """Whether the file with this header was written by ``write``."""
    return header.metadata.get("format") == FORMAT


def _to_int8(values: Tensor) -> tuple[Tensor, Tensor]:
    scale = values.flatten(1).abs().amax(dim=1) / 127
    safe = torch.where(scale > 0, scale, 1.0)
    return (values / column(safe, values)).round().clamp(-127, 127).to(torch.int8), scale


def column(scale: Tensor, like: Tensor) -> Tensor:
    """One value per row of ``like``, of a shape that multiplies it."""
    return scale.reshape(-1, *[1] * (like.ndim - 1))


def _entries(metadata: Mapping[str, str]) -> dict[str, Entry]:
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"packed file: its format is {shown(metadata.get('format'))}, expected {FORMAT!r}")
    packing, source = metadata.get("packing", ""), "packed file: the packing in its metadata"
    table = documents.parse_json(packing, source, "save it again")
    entries = {name: _entry(name, value) for name, value in table.items()}
    by_rows = {name: prod(entry.shape) for name, entry in entries.items() if entry.rows}
    if sum(by_rows.values()) > TABLE_LIMIT:
        largest = max(by_rows, key=lambda name: by_rows[name])
        raise WeightsError(
            f"packed file: its tables would have {sum(by_rows.values())} values, {shown(largest)} the most, expected "
            f"at most {TABLE_LIMIT}"
        )
    return entries


def _entry(name: str, value: object) -> Entry:
    """One entry of the metadata, checked: its shape may ask for memory that the file does not have."""
    if isinstance(value, dict) and value.keys() == {"shape", "int8", "rows"}:
        shape, int8, rows = value["shape"], value["int8"], value["rows"]
        if headers.is_shape(shape) and isinstance(int8, bool) and isinstance(rows, bool) and (shape or not rows):
            return Entry(tuple(shape), int8, rows)
    raise WeightsError(f"packed file: its metadata does not describe how {shown(name)} is packed: {shown(value)}")


def _unpack_one(name: str, entry: Entry, pieces: dict[str, Tensor]) -> Tensor:
    values = _take(pieces, name, torch.int8 if entry.int8 else None)
    rows = _take(pieces, name + ROWS, torch.int32) if entry.rows else None
    stored = entry.shape if rows is None else (len(rows), *entry.shape[1:])
    if tuple(values.shape) != stored:
        raise WeightMismatchError(
            f"packed tensor {shown(name)} has shape {list(values.shape)}, expected {list(stored)}"
        )
    if entry.int8:
        scale = _take(pieces, name + SCALE, torch.float32)
        if tuple(scale.shape) != stored[:1] or not scale.isfinite().all():
            raise WeightMismatchError(f"packed tensor {shown(name)} needs a finite scale per row, {stored[0]} in all")
        whole = values * column(scale, values)
    else:
        whole = values.float()
    if rows is None:
        return whole
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < entry.shape[0]:
        raise WeightMismatchError(f"packed tensor {shown(name)} names rows outside 0 to {entry.shape[0] - 1}")
    return torch.zeros(entry.shape, device=whole.device).index_copy_(0, rows.long(), whole)


def _take(pieces: dict[str, Tensor], name: str, dtype: torch.dtype | None) -> Tensor:
    piece = pieces.pop(name, None)
    if piece is None:
        raise WeightMismatchError(f"packed file: {shown(name)} is missing; save it again")
    if dtype is not None and piece.dtype != dtype:
        raise WeightMismatchError(f"packed file: {shown(name)} is {piece.dtype}, expected {dtype}; save it again")
    return piece
