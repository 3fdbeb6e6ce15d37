# SPDX-License-Identifier: Apache-2.0
"""What is learned: a table of embeddings, one row per bucket of diffusion time; and its file.

The file `concept.safetensors` holds two tensors, `embeddings` [N, V, D] float32 and `boundaries`
[N + 1] int32, and string metadata, so that readers of plain embeddings refuse it. For SDXL, the
columns of its two text models are tensors of their own, `embeddings.clip_l` and
`embeddings.clip_g`.
"""

import json
import os
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import safetensors.numpy
from etils import epath
from jaxtyping import Float32, Int32

from mrti_jax.concept.prompt import check_name
from mrti_jax.errors import UserError
from mrti_jax.files import is_regular, reporting, to_path, write_whole
from mrti_jax.models.stored.safetensors_file import read_safetensors
from mrti_jax.models.text_encoder import XL_PARTS, Parts

FILE_NAME = "concept.safetensors"
FORMAT = "mrti-concept/1"
_BOUNDARIES = "boundaries"
_RESERVED = ("format", "name", "num_train_timesteps")


@dataclass(frozen=True, eq=False)
class Concept:
    """A learned word.

    `embeddings` [N, V, D] float32: row n holds the word's V token embeddings in bucket n, those of
    SDXL's two text models side by side.
    `boundaries` [N + 1] int32: bucket n is the timesteps boundaries[n] <= t < boundaries[n + 1],
    from 0 to the number of training timesteps.
    `metadata`: strings; usual keys are base_model, initializer, learnable_property (object or
    style), steps (updates done), planned_steps, seed, library_version.
    `parts`: name and width of each text model's columns; if not given, all D belong to one model.
    Raises UserError for arrays or a name that no concept can have.
    """

    name: str
    embeddings: Float32[np.ndarray, "n v d"] = field(repr=False)
    boundaries: Int32[np.ndarray, "edges"] = field(repr=False)
    metadata: dict[str, str] = field(default_factory=dict)
    parts: Parts = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_arrays(self.name, self.embeddings, self.boundaries)
        if not self.parts:
            object.__setattr__(self, "parts", (("", self.width),))
        if sum(width for _, width in self.parts) != self.width:
            raise UserError(
                f"concept {self.name!r}: the parts {dict(self.parts)} don't add up to the "
                f"embeddings' width {self.width}"
            )
        for key, value in self.metadata.items():
            if key in _RESERVED:
                raise UserError(f"concept {self.name!r}: the metadata key {key!r} is reserved")
            if not isinstance(value, str):
                raise UserError(f"concept {self.name!r}: metadata {key!r} must be a string")

    @property
    def num_buckets(self) -> int:
        """N, the number of buckets (rows)."""
        return self.embeddings.shape[0]

    @property
    def num_vectors(self) -> int:
        """V, the number of token positions that the word takes."""
        return self.embeddings.shape[1]

    @property
    def width(self) -> int:
        """D, the text encoder's hidden size."""
        return self.embeddings.shape[2]

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """What the file holds: boundaries, and the embeddings of each text model."""
        ends = np.cumsum([width for _, width in self.parts])
        pieces = np.split(self.embeddings, ends[:-1], axis=2)
        named = {_tensor_name(name): x for (name, _), x in zip(self.parts, pieces, strict=True)}
        return {
            name: np.ascontiguousarray(value)
            for name, value in {**named, _BOUNDARIES: self.boundaries}.items()
        }

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of timesteps of the schedule it was trained with."""
        return int(self.boundaries[-1])

    def save(self, path: epath.PathLike) -> None:
        """Writes the file to `path` (into it, if a folder; may be gs://), whole or not at all."""
        target = to_path(path)
        metadata = self.metadata | {
            "format": FORMAT,
            "name": self.name,
            "num_train_timesteps": str(self.num_train_timesteps),
        }
        with reporting(f"can't write the concept file {target}", target):
            if target.is_dir():
                target /= FILE_NAME
        write_whole(target, _ordered(safetensors.numpy.save(self.tensors, metadata)))

    @classmethod
    def load(cls, path: epath.PathLike) -> "Concept":
        """Reads a concept file, or the `concept.safetensors` of a folder; may be gs://.

        Raises UserError for a file that is missing, damaged or not a concept file.
        """
        source = to_path(path)
        with reporting(f"can't read the concept file {source}", source):
            if source.is_dir():
                source /= FILE_NAME
                if not source.exists():
                    raise UserError(f"the folder '{path}' holds no {FILE_NAME}")
            elif not source.exists():
                raise UserError(f"there is no concept file {path}")
            if not is_regular(source):
                raise UserError(f"the concept file {source} is not a file")
        stored, metadata = read_safetensors(source)  # no numbers are read yet
        _check_contents(source, stored, metadata)
        tensors = {name: tensor.read() for name, tensor in stored.items()}
        timesteps = metadata.pop("num_train_timesteps", None)
        del metadata["format"]
        try:
            name = metadata.pop("name")
            boundaries = tensors.pop(_BOUNDARIES)
            pieces = {part: tensors[_tensor_name(part)] for part in _part_names(tensors)}
            for piece in pieces.values():
                _check_arrays(name, piece, boundaries)
            if len({piece.shape[1] for piece in pieces.values()}) > 1:
                raise UserError(f"concept {name!r}: its parts have different numbers of vectors")
            concept = cls(
                name,
                np.concatenate(list(pieces.values()), axis=2),
                boundaries,
                metadata,
                tuple((part, piece.shape[2]) for part, piece in pieces.items()),
            )
        except UserError as error:
            raise UserError(f"invalid concept file {source}: {error}") from error
        if timesteps is not None and timesteps != str(concept.num_train_timesteps):
            raise UserError(
                f"invalid concept file {source}: its boundaries end at "
                f"{concept.num_train_timesteps}, but num_train_timesteps is {timesteps}"
            )
        return concept


def _tensor_name(part: str) -> str:
    return f"embeddings.{part}" if part else "embeddings"


def _part_names(tensors: Iterable[str]) -> tuple[str, ...]:
    """The parts of a file with these tensors, in order."""
    return XL_PARTS if set(map(_tensor_name, XL_PARTS)) & set(tensors) else ("",)


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its header sorted, since the library's order varies: equal concepts
    give equal files."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the format's alignment
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def by_name(concepts: Concept | Iterable[Concept]) -> dict[str, Concept]:
    """One or several concepts by name. Raises UserError for what is none, and if two share a
    name."""
    if isinstance(concepts, Concept | str | os.PathLike):
        concepts = [concepts]
    named: dict[str, Concept] = {}
    for concept in concepts:
        if not isinstance(concept, Concept):
            raise UserError(f"{concept!r} is not a concept, but Concept.load reads one from a file")
        if concept.name in named:
            raise UserError(
                f"two concepts are named {concept.name!r}: leave one out, "
                "or train it under another name"
            )
        named[concept.name] = concept
    return named


def _check_arrays(name: str, embeddings: np.ndarray, boundaries: np.ndarray) -> None:
    who = f"concept {name!r}"
    if embeddings.dtype != np.float32 or embeddings.ndim != 3 or 0 in embeddings.shape:
        raise UserError(
            f"{who}: embeddings must be float32 [buckets, vectors, width], "
            f"not {embeddings.dtype} {list(embeddings.shape)}"
        )
    if boundaries.dtype != np.int32 or boundaries.shape != (len(embeddings) + 1,):
        raise UserError(
            f"{who}: boundaries must be int32 [{len(embeddings) + 1}], one more than the buckets, "
            f"not {boundaries.dtype} {list(boundaries.shape)}"
        )
    if boundaries[0] != 0 or (boundaries[1:] <= boundaries[:-1]).any():
        raise UserError(f"{who}: boundaries must rise from 0, not {boundaries.tolist()}")
    finite = np.isfinite(embeddings).all(axis=(1, 2))
    if not finite.all():
        rows = np.flatnonzero(~finite).tolist()
        raise UserError(f"{who}: embeddings of bucket {rows} hold NaN or infinity")


def _check_contents(source: epath.Path, names: Collection[str], metadata: dict[str, str]) -> None:
    """Raises UserError unless format and tensor names are a concept's."""
    names, kind = sorted(names), metadata.get("format", "")
    if kind != FORMAT:
        if kind.startswith("mrti-concept/"):
            raise UserError(
                f"{source} has format {kind}, but this version of mrti_jax reads {FORMAT}"
            )
        if any(name == "emb_params" or name.startswith(("clip_l", "<")) for name in names):
            raise UserError(
                f"{source} is not a concept but an ordinary embedding, as other tools write them: "
                "these can't be used here"
            )
        if any("lora_" in name for name in names):
            raise UserError(f"{source} is not a concept but a LoRA: these can't be used here")
        held = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(f"{source} is not a concept file ({FORMAT}); it holds: {held or 'nothing'}")
    expected = [_BOUNDARIES, *map(_tensor_name, _part_names(names))]
    if names != sorted(expected):
        raise UserError(
            f"invalid concept file {source}: it holds {', '.join(names) or 'nothing'} "
            f"instead of {', '.join(expected)}"
        )
    if not metadata.get("name"):
        raise UserError(f"invalid concept file {source}: its metadata has no name")
