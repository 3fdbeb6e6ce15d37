# SPDX-License-Identifier: Apache-2.0
"""Prompts over all resolutions: a table of pictures with the same noise along each row."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mrti_jax.concept import BRACKETS, MARK, Concept, by_name
from mrti_jax.concept.prompt import NAME
from mrti_jax.errors import UserError, check_word
from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sampling.generate import Picture, generate
from mrti_jax.sampling.request import expand_seeds

SweepRows = Literal["seeds", "schemes"]

_BARE = re.compile(r"<[\w-]+\{k\}>")
_WORD = re.compile(r"[\[(|]\{k\}[\])|]>")
_MARKED = re.compile(rf"<(?P<name>{NAME})[\[(|]\{{k\}}[\])|]>")


@dataclass(frozen=True)
class Row:
    """A row of the table before it has seeds: its labels, and a prompt for each column."""

    labels: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Sweep:
    """Pictures [rows][columns], and a label for each row and column."""

    pictures: list[list[Picture]]
    row_labels: list[str]
    column_labels: list[str]


def sweep(
    sd: StableDiffusion,
    templates: str | Sequence[str],
    concepts: Concept | Iterable[Concept],
    *,
    rows: SweepRows = "seeds",
    values: Sequence[str | int | float] = (),
    seeds: int | Sequence[int] = 0,
    images_per_prompt: int = 1,
    **options: Any,
) -> Sweep:
    """Draws prompts such as `a photo of <star[{k}]>` with each value of `{k}`, one per column.

    Args:
        templates: one or several, drawn one below the other.
        rows: "seeds" is a row per template and seed; "schemes" is one per template, scheme and
            seed, in which the brackets around `{k}` are those of the scheme.
        values: buckets (3) or resolutions (0.3), as numbers or text; all buckets if none is given.
        options: of `generate`.

    Raises:
        UserError: a template has no `{k}`, or what `generate` refuses.
    """
    table = by_name(concepts)
    given = [values] if isinstance(values, str) else list(map(str, values))
    columns = given or default_values(templates, table.values())
    all_seeds = expand_seeds(seeds, images_per_prompt)
    planned = sweep_rows(templates, rows, columns)
    prompts = [prompt for row in planned for prompt in row.prompts]
    flat = iter(generate(sd, prompts, table.values(), seeds=all_seeds, **options))

    pictures: list[list[Picture]] = []
    labels: list[str] = []
    for row in planned:
        drawn = [[next(flat) for _ in all_seeds] for _ in columns]
        pictures += [list(across) for across in zip(*drawn, strict=True)]
        tells_seeds = not row.labels or len(all_seeds) > 1
        labels += [", ".join([*row.labels, *[f"seed {seed}"] * tells_seeds]) for seed in all_seeds]
    return Sweep(pictures, labels, [f"k = {value}" for value in columns])


def sweep_rows(templates: str | Sequence[str], rows: SweepRows, values: Sequence[str]) -> list[Row]:
    """What `sweep` draws. Raises UserError for unknown rows and a template without `{k}`."""
    check_word("rows", rows, get_args(SweepRows))
    templates = _listed(templates)
    planned = []
    for template in templates:
        if MARK not in template:
            raise UserError(
                f"the grid's prompt {template!r} has no {MARK}: write for example "
                '"a photo of <star[{k}]>"'
            )
        if bare := _BARE.search(template):
            meant = bare[0].replace(MARK, f"[{MARK}]")
            raise UserError(f"the grid's prompt {template!r} has {bare[0]}: write {meant}")
        told = (template,) * (len(templates) > 1)
        variants = {"": template} if rows == "seeds" else scheme_templates(template)
        for scheme, text in variants.items():
            prompts = tuple(text.replace(MARK, value) for value in values)
            planned.append(Row(told + (scheme,) * bool(scheme), prompts))
    return planned


def _listed(templates: str | Sequence[str]) -> list[str]:
    return [templates] if isinstance(templates, str) else list(templates)


def default_values(templates: str | Sequence[str], concepts: Iterable[Concept]) -> list[str]:
    """All buckets of the concepts that templates name with `{k}`, or tenths if their numbers
    differ."""
    named = {match["name"] for text in _listed(templates) for match in _MARKED.finditer(text)}
    counts = {concept.num_buckets for concept in concepts if concept.name in named}
    if len(counts) == 1:
        return [str(k) for k in range(counts.pop())]
    return [f"0.{tenth}" for tenth in range(10)]


def scheme_templates(template: str) -> dict[str, str]:
    """By label, the template with the brackets of each scheme around `{k}`. Raises UserError."""
    if not _WORD.search(template):
        raise UserError(
            f"the grid's prompt {template!r} has no word such as <star[{MARK}]> whose scheme "
            "could be changed"
        )
    return {
        f"{scheme} {left}k{right}": _WORD.sub(f"{left}{MARK}{right}>", template)
        for scheme, (left, right) in BRACKETS.items()
    }
