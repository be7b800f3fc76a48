"""Where it is worth looking: tissue detectors, the mask they make, and which tiles it selects."""

from wsiseg.tissue.detectors import TissueDetector
from wsiseg.tissue.find import find_tissue
from wsiseg.tissue.mask import TissueMask

__all__ = ["TissueDetector", "TissueMask", "find_tissue"]
