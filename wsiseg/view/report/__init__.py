"""Reports that are read, sent and printed: one page per slide, one per run."""

from wsiseg.view.report.write import write_reports

__all__ = ["write_reports"]
