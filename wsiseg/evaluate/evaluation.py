"""Many slides: one after the other, then tables, means with their intervals, and groups."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.errors import UsageError
from wsiseg.evaluate.calibration import Calibrated, CalibrationBins
from wsiseg.evaluate.case import Case, EvaluationOptions
from wsiseg.evaluate.pictures import Picture, slide_pictures
from wsiseg.evaluate.points import PointCounts, PointProtocol, PointScores, pool_points
from wsiseg.evaluate.slide import DETECTION, OVERLAP, ClassScores, SlideScores, evaluate_slide
from wsiseg.evaluate.statistics import Interval, bootstrap

__all__ = ["ALL_CLASSES", "Evaluation", "Evaluator", "SummaryRow", "evaluate"]

ALL_CLASSES = "mean of classes"
"""Stands for the mean of a figure over the classes of a slide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow:
    """One figure of one class over some slides."""

    column: str
    """Column whose value tells the slides apart; empty: all slides."""

    stratum: str
    class_name: str
    figure: str
    interval: Interval
    """Mean over the slides where it is finite."""

    median: float
    """Over the slides where it is defined; infinite distances count."""

    pooled: float
    """The figure made of the counts of all slides together, where there are counts; else NaN."""

    undefined: int
    """Slides on which neither side has anything of the class (or the figure divides by 0)."""

    infinite: int
    """Slides on which a distance is infinite, since one side has nothing of the class."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for tables."""
        return {
            "column": self.column,
            "stratum": self.stratum,
            "class": self.class_name,
            "figure": self.figure,
            "mean": self.interval.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "median": self.median,
            "pooled": self.pooled,
            "slides": self.interval.count,
            "groups": self.interval.groups,
            "undefined": self.undefined,
            "infinite": self.infinite,
        }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a set of slides was done."""

    classes: tuple[str, ...]
    """The background first; it has no scores."""

    slides: tuple[SlideScores, ...]
    options: EvaluationOptions
    pictures: tuple[Picture, ...] = ()
    """Of the worst slides, the worst first."""

    noun: str = "slide"
    """What one of `slides` is: a slide, or a scan."""

    def worst(self) -> list[SlideScores]:
        """Return the slides, the worst first; those without a figure last."""
        return sorted(self.slides, key=_rank)

    def table(self) -> list[dict[str, Any]]:
        """Return one row per slide and class: what is known of the slide, then the figures."""
        return [_table_row(slide, scores) for slide in self.slides for scores in slide.classes]

    @cached_property
    def summary(self) -> tuple[SummaryRow, ...]:
        """Each figure of each class: over all slides, then by the columns of the strata.

        Raises
        ------
        UsageError
            If a slide lacks a column that is to group or stratify.
        """
        rows = list(self._summary_of(self.slides, "", ""))
        for column in self.options.strata:
            values = [self._value(slide, column) for slide in self.slides]
            for value in sorted(set(values)):
                own = [s for s, v in zip(self.slides, values, strict=True) if v == value]
                rows += self._summary_of(own, column, value)
        return tuple(rows)

    def calibration(self) -> Calibrated | None:
        """Return the calibration over the pixels of all slides; `None` without probabilities."""
        total: CalibrationBins | None = None
        for slide in self.slides:
            if slide.calibration is not None:
                total = total or CalibrationBins(len(self.classes), bins=self.options.bins)
                total += slide.calibration
        return total.scores() if total else None

    def points(self) -> dict[PointProtocol, dict[str, PointScores]]:
        """Return the scores of points over all slides, by protocol and class."""
        found: dict[PointProtocol, dict[str, PointScores]] = {}
        for index, name in enumerate(self.classes[1:]):
            counts = [c.points for c in (s.classes[index] for s in self.slides) if c.points]
            for protocol in counts[0] if counts else ():
                pooled = pool_points((c[protocol] for c in counts), protocol)
                found.setdefault(protocol, {})[name] = pooled
        return found

    def write(self, folder: str | Path) -> Path:
        """Write `evaluation.csv`, `summary.csv`, `evaluation.json` and `evaluation.html`.

        Returns the folder, which is made where needed. Each file appears when it is whole.

        Raises
        ------
        RunError
            If a file cannot be written.
        DiskFullError
            If there is no room left.
        """
        from wsiseg.evaluate.write import write_evaluation

        return write_evaluation(self, Path(folder))

    def _value(self, slide: SlideScores, column: str) -> str:
        try:
            return slide.columns[column]
        except KeyError:
            raise UsageError(
                f"{slide.name}: no column {column!r} to tell slides apart by; it has "
                f"{sorted(slide.columns) or 'none'}"
            ) from None

    def _summary_of(
        self, slides: Sequence[SlideScores], column: str, stratum: str
    ) -> Iterator[SummaryRow]:
        by = self.options.group_by
        groups = [self._value(slide, by) if by else slide.name for slide in slides]
        for index, name in enumerate(self.classes[1:]):
            scores = [slide.classes[index] for slide in slides]
            tables = [one.figures() for one in scores]
            yield from self._rows(tables, groups, name, (column, stratum), _pooled(scores))
        if len(self.classes) > 2:
            means = [slide.mean() for slide in slides]
            yield from self._rows(means, groups, ALL_CLASSES, (column, stratum), {})

    def _rows(
        self,
        tables: Sequence[dict[str, float]],
        groups: Sequence[str],
        class_name: str,
        place: tuple[str, str],
        pooled: dict[str, float],
    ) -> Iterator[SummaryRow]:
        options = self.options
        for figure in dict.fromkeys(name for table in tables for name in table):
            values = np.array([table.get(figure, np.nan) for table in tables])
            defined = values[~np.isnan(values)]
            yield SummaryRow(
                column=place[0],
                stratum=place[1],
                class_name=class_name,
                figure=figure,
                interval=bootstrap(
                    values,
                    groups=groups,
                    method=options.method,
                    resamples=options.resamples,
                    confidence=options.confidence,
                    seed=options.seed,
                ),
                median=float(np.median(defined)) if len(defined) else float("nan"),
                pooled=pooled.get(figure, float("nan")),
                undefined=len(values) - len(defined),
                infinite=int(np.isinf(defined).sum()),
            )


class Evaluator:
    """Takes slides one by one, so that one that fails does not stop the others.

    Parameters
    ----------
    classes
        Names of the label values 0, 1, ...; the first is the background.
    options
        How slides are compared.
    """

    def __init__(self, classes: Sequence[str], *, options: EvaluationOptions | None = None) -> None:
        self.classes = tuple(classes)
        self.options = options or EvaluationOptions()
        self._slides: dict[str, SlideScores] = {}
        self._pictures: dict[str, Picture] = {}

    def add(self, case: Case) -> SlideScores:
        """Compare one slide; pictures are kept of the worst ones so far.

        Raises
        ------
        UsageError
            If a slide of that name is there already, lacks a column that the options name, or
            cannot be compared.
        LabelError
            If a label stands for no class.
        """
        if case.name in self._slides:
            raise UsageError(f"{case.name}: evaluated already; give slides different names")
        needed = {*self.options.strata, *([self.options.group_by] if self.options.group_by else [])}
        if missing := sorted(needed - case.columns.keys()):
            raise UsageError(
                f"{case.name}: no column {missing[0]!r} to tell slides apart by; it has "
                f"{sorted(case.columns) or 'none'}"
            )
        scores = evaluate_slide(case, self.classes, options=self.options)
        kept = replace(scores, sketch=None)
        self._slides[case.name] = kept
        worst = sorted(self._slides.values(), key=_rank)[: self.options.pictures]
        if kept in worst:
            self._pictures[case.name] = slide_pictures(case, scores, self.classes)
        names = {slide.name for slide in worst}
        self._pictures = {n: picture for n, picture in self._pictures.items() if n in names}
        return scores

    def finish(self) -> Evaluation:
        """Return the evaluation of all slides that were added.

        Raises
        ------
        UsageError
            If there is none.
        """
        if not self._slides:
            raise UsageError("no slide was evaluated; give at least one with a reference")
        slides = tuple(self._slides.values())
        worst = sorted(self._pictures, key=lambda name: _rank(self._slides[name]))
        pictures = tuple(self._pictures[name] for name in worst)
        return Evaluation(self.classes, slides, self.options, pictures)


def evaluate(
    cases: Iterable[Case], classes: Sequence[str], *, options: EvaluationOptions | None = None
) -> Evaluation:
    """Compare slides with their references, one after the other.

    Parameters are those of `Evaluator`; `cases` may be a generator, so that one slide at a time is
    open. The errors are those of `Evaluator.add`.
    """
    evaluator = Evaluator(classes, options=options)
    for case in cases:
        evaluator.add(case)
    return evaluator.finish()


def _table_row(slide: SlideScores, scores: ClassScores) -> dict[str, Any]:
    found = {"class": scores.name, "empty": scores.empty, **scores.figures()}
    taken = {"slide", *found}
    known = {f"{k} (given)" if k in taken else k: v for k, v in slide.columns.items()}
    return {"slide": slide.name, **known, **found}


def _rank(slide: SlideScores) -> tuple[bool, float, str]:
    return bool(np.isnan(slide.rank)), slide.rank if slide.rank == slide.rank else 0.0, slide.name


def _pooled(scores: Sequence[ClassScores]) -> dict[str, float]:
    """Return the figures that can be made of the counts of all slides together."""
    pooled: dict[str, float] = {}
    overlaps = [one.overlap for one in scores if one.overlap is not None]
    if overlaps:
        total = overlaps[0]
        for other in overlaps[1:]:
            total += other
        pooled |= {name: getattr(total, name) for name in OVERLAP}
    objects = [one.objects for one in scores if one.objects is not None]
    if objects:
        sums = PointCounts(0, 0, 0)
        for one in objects:
            sums += PointCounts(one.true_positives, one.false_positives, one.false_negatives)
        for word in ("object", "lesion"):  # whichever the figures have
            pooled |= {f"{word}_{name}": getattr(sums, name) for name in DETECTION}
        pooled["dq"] = sums.f1
    points = [one.points for one in scores if one.points]
    for protocol in points[0] if points else ():
        known = pool_points((one[protocol] for one in points), protocol)
        pooled |= {f"points_{protocol}_{name}": getattr(known.counts, name) for name in DETECTION}
    return pooled
