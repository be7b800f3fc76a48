"""Damaged files of every format, made by the thousand, through everything that reads files.

    python -m wsiseg.testing.fuzz --inputs 2000

A file is made valid, changed (`mutate`), and used as people use it (`entries`), in a process that
is watched (`campaign`). It may be read or refused in one line. It must not end a process, hang,
take the machine's memory, raise what is not one of wsiseg's errors, or cost the slide beside it.
Each change follows from a seed and a number alone.
"""

from wsiseg.testing.fuzz.campaign import BAD, Case, Limits, Outcome, change, fuzz, table, try_one
from wsiseg.testing.fuzz.mutate import change_file, mutate
from wsiseg.testing.fuzz.originals import Original, make_originals

__all__ = [
    "BAD",
    "Case",
    "Limits",
    "Original",
    "Outcome",
    "change",
    "change_file",
    "fuzz",
    "make_originals",
    "mutate",
    "table",
    "try_one",
]
