"""A run on a cluster, of its own process: `python cluster_run.py SCHEDULER OUT LOG MODEL SLIDE`.

It takes 20 s, so that it can be stopped; exits with 130 then, like the command.
"""

import signal
import sys
from pathlib import Path

from fake_work import FakeModelWork

from wsiseg.options import FolderOptions
from wsiseg.run import SlideJob
from wsiseg.run.folder import run_folder

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where started in background
    scheduler, out, log, model, slide = sys.argv[1:]
    work = FakeModelWork(model=model, steps=1000, step_s=0.02, log=Path(log))
    try:
        run_folder(
            [SlideJob(slide, "long")],
            Path(out),
            work,
            scheduler=scheduler,
            options=FolderOptions(expiry_s=20.0),
        )
    except KeyboardInterrupt:
        sys.exit(130)
