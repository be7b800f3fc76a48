"""A run of its own process: `python fake_run.py OUT LOG STEPS EXPIRY SLIDE...`."""

import sys
from pathlib import Path

from fake_work import FakeWork

from wsiseg.options import FolderOptions
from wsiseg.run import SlideJob
from wsiseg.run.folder import run_folder

if __name__ == "__main__":
    out, log, steps, expiry, *slides = sys.argv[1:]
    report = run_folder(
        [SlideJob(slide, Path(slide).stem) for slide in slides],
        Path(out),
        FakeWork(steps=int(steps), log=Path(log)),
        options=FolderOptions(expiry_s=float(expiry), attempts=100),
    )
    if report.failures or len(report.done) != len(slides):
        sys.exit(f"not all done: {report.failures}")
