"""A study's file, and the runs that it stands for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from tribin.errors import InputError
from tribin.recipe import Recipe, RecipeError, load_recipe
from tribin.recipe.faults import Fault, UnreadableError, did_you_mean
from tribin.recipe.resolve import STUDIES, read_mapping, shipped_folder
from tribin.recipe.section import Section
from tribin.recipe.validate import validate_as

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]


class Entry(Section):
    """A row of the study's table: one recipe, trained with each seed."""

    recipe: str = Field(description="name or file of the recipe")
    overrides: tuple[str, ...] = Field(default=(), description="key.path=value each")
    baseline: str | None = Field(
        default=None, description="the row that this one is compared with, image by image"
    )


class StudySection(Section):
    """The file of a study."""

    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        min_length=1, description="each row is trained with each of them"
    )
    overrides: tuple[str, ...] = Field(default=(), description="key.path=value each, for all rows")
    runs: dict[Name, Entry] = Field(min_length=1, description="the rows, by name")

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{list(seeds)} names a seed twice")
        return seeds

    @field_validator("runs")
    @classmethod
    def _name_rows(cls, runs: dict[str, Entry]) -> dict[str, Entry]:
        for name, entry in runs.items():
            if entry.baseline is not None and entry.baseline not in runs:
                raise ValueError(
                    f"{name} has the baseline {entry.baseline!r}; there are: {', '.join(runs)}"
                )
        return runs


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Attributes:
        row: the row's name.
        seed: the run's.
        recipe: with all overrides.
    """

    row: str
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.row}-seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study that was read and checked.

    Attributes:
        name: of the file.
        section: its content.
        runs: all of them, row by row.
    """

    name: str
    section: StudySection
    runs: tuple[PlannedRun, ...]

    def runs_of(self, row: str) -> list[PlannedRun]:
        """The runs of a row, in the order of the seeds."""
        return [run for run in self.runs if run.row == row]


def load_study(source: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study and the recipes that it names.

    Args:
        source: a study's file, or the name of a shipped one (``paper_table``).
        overrides: ``key.path=value`` each, for all rows, over those of the file.

    Raises:
        InputError: if there is no such study, or it or one of its recipes has faults.
    """
    file = _find(source)
    section = _read(file)
    runs = []
    for row, entry in section.runs.items():
        settings = [*section.overrides, *entry.overrides, *overrides]
        for seed in section.seeds:
            recipe = load_recipe(entry.recipe, [*settings, f"seed={seed}"])
            runs.append(PlannedRun(row, seed, recipe))
    study = Study(file.stem, section, tuple(runs))
    _check_comparable(study)
    return study


def shipped_studies() -> list[str]:
    """The names of the studies that are installed with tribin, sorted."""
    return sorted(file.stem for file in (shipped_folder() / STUDIES).glob("*.yaml"))


def _check_comparable(study: Study) -> None:
    for row, entry in study.section.runs.items():
        if entry.baseline is not None:
            ours, theirs = (study.runs_of(name)[0].recipe for name in (row, entry.baseline))
            for section in ("data", "evaluation"):
                if getattr(ours, section) != getattr(theirs, section):
                    raise InputError(
                        f"{study.name}: {row} and its baseline {entry.baseline} differ in "
                        f"{section}; they are compared image by image, so it must be the same"
                    )


def _find(source: str | Path) -> Path:
    if os.path.isfile(source):
        return Path(source)
    name = str(source).removesuffix(".yaml")
    names = shipped_studies()
    if name in names:
        return shipped_folder() / STUDIES / f"{name}.yaml"
    hint = did_you_mean(name, names) or f"there are: {', '.join(names)}"
    raise InputError(f"no study {str(source)!r}: neither a file nor a shipped study; {hint}")


def _read(file: Path) -> StudySection:
    faults: list[Fault] = []
    try:
        section = validate_as(StudySection, read_mapping(file, faults), faults)
    except UnreadableError as error:
        raise RecipeError(file.name, [*faults, error.fault]) from None
    if section is None or faults:
        raise RecipeError(file.name, faults)
    return section
