"""Where a data set comes from, how it is read, and how it is split."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from normfold.models.data.sources import FORMS
from normfold.models.data.tables.options import Missing
from normfold.models.data.targets import TaskName


class DataConfig(BaseModel):
    """Source of a data set, and its splits. With unchanged files, it gives the same data set again."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str = Field(default="digits", description=f"{FORMS}.")
    label_column: str | tuple[str, ...] | None = Field(
        default=None, description="Name of a table's label column, or names of several; null: the last."
    )
    task: TaskName | None = Field(
        default=None,
        description="classification, segmentation, regression or multi-label; null: by the labels.",
    )
    unit: tuple[str, ...] | None = Field(
        default=None, description="Unit of each value to predict, or one for all of them; null: not known."
    )
    image_size: tuple[int, int] | None = Field(
        default=None, description="Height and width of the images of a folder, in pixels."
    )
    channels: Literal[1, 3] = Field(default=3, description="Of the images of a folder: 1 for grey, 3 for RGB.")
    layout: Literal["nchw", "nhwc"] = Field(
        default="nchw", description="Axes of the images in npz:PATH: channels before height and width, or after them."
    )
    in_memory: bool | None = Field(
        default=None,
        description="Whether the images of a folder are decoded once and held in memory, or each time that they are "
        "needed; null: up to 1 GiB as float32 are held.",
    )
    ignore_index: int | None = Field(
        default=None, description="Value in masks of pixels without a class, such as 255; null: every value is a class."
    )
    drop: tuple[str, ...] = Field(default=(), description="Columns of a table that are left out.")
    category: tuple[str, ...] = Field(
        default=(), description="Columns of a table whose numbers or dates are categories, as texts are."
    )
    missing: Missing | None = Field(
        default=None,
        description="What missing values of a table become: mean, category (an input that says so) or refuse; null: "
        "the mean of numbers, a category of texts.",
    )
    missing_value: tuple[str, ...] = Field(
        default=(), description="Further texts that mean a missing value in a table, such as -999."
    )
    validation_fraction: float = Field(default=0.1, gt=0, lt=1, description="Fraction of each class for validation.")
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="Fraction of each class for the final test.")
    validation_data: str | None = Field(
        default=None, description="Source of the validation split, as `source`; null: a fraction of `source`."
    )
    test_data: str | None = Field(
        default=None, description="Source of the test split, as `source`; null: a fraction of `source`."
    )
    group_column: str | None = Field(
        default=None, description="Column of a table: rows of one value are in one split; it is no input."
    )
    time_column: str | None = Field(
        default=None, description="Column of a table: its latest rows are tested; it is no input."
    )
    split_seed: int = Field(
        default=0, ge=0, description="Seed of the splits; independent of training's, so that runs share a test split."
    )

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction {self.validation_fraction:g} and test_fraction {self.test_fraction:g} leave no "
                "training rows; together they must be less than 1"
            )
        return self

    @property
    def own_files(self) -> dict[str, str]:
        """Sources of the splits that have a file of their own, by split."""
        given = {"validation": self.validation_data, "test": self.test_data}
        return {split: source for split, source in given.items() if source is not None}
