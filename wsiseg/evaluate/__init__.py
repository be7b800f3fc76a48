"""Comparing results with truth: how right, how sure, and how far the numbers can be trusted.

Masks are compared block by block, so that memory does not grow with the slide; only what the
outlines themselves need grows with their length, and what objects need with their number.
"""

from wsiseg.evaluate.boundary import Boundary, BoundaryTracer, boundary_of
from wsiseg.evaluate.calibration import Calibrated, CalibrationBins, ReliabilityBin
from wsiseg.evaluate.case import Case, EvaluationOptions, Masks, Objects, Pair, PointSet
from wsiseg.evaluate.evaluation import Evaluation, Evaluator, evaluate
from wsiseg.evaluate.instances import (
    InstanceOverlap,
    InstanceScores,
    compare_labels,
    compare_polygons,
)
from wsiseg.evaluate.overlap import Confusion, Overlap, compare_masks
from wsiseg.evaluate.points import PointCounts, PointScores, match_points, pool_points
from wsiseg.evaluate.raters import Raters, RaterScores, crps_normal
from wsiseg.evaluate.readers import read_heatmap, slide_case
from wsiseg.evaluate.scaling import fit_temperature, fit_vector
from wsiseg.evaluate.slide import SlideScores, evaluate_slide
from wsiseg.evaluate.statistics import Interval, PairDifference, bootstrap, compare_designs
from wsiseg.evaluate.surface import SurfaceScores, compare_boundaries, compare_surfaces
from wsiseg.evaluate.volumes import ScanPair, evaluate_scans, find_pairs, scan_options

__all__ = [
    "Boundary",
    "BoundaryTracer",
    "Calibrated",
    "CalibrationBins",
    "Case",
    "Confusion",
    "Evaluation",
    "EvaluationOptions",
    "Evaluator",
    "InstanceOverlap",
    "InstanceScores",
    "Interval",
    "Masks",
    "Objects",
    "Overlap",
    "Pair",
    "PairDifference",
    "PointCounts",
    "PointScores",
    "PointSet",
    "RaterScores",
    "Raters",
    "ReliabilityBin",
    "ScanPair",
    "SlideScores",
    "SurfaceScores",
    "bootstrap",
    "boundary_of",
    "compare_boundaries",
    "compare_designs",
    "compare_labels",
    "compare_masks",
    "compare_polygons",
    "compare_surfaces",
    "crps_normal",
    "evaluate",
    "evaluate_scans",
    "evaluate_slide",
    "find_pairs",
    "fit_temperature",
    "fit_vector",
    "match_points",
    "pool_points",
    "read_heatmap",
    "scan_options",
    "slide_case",
]
