"""Parts that several scripts share: QuPath runs single files, so each script has its own copy.

`python tests/qupath_scripts/shared_blocks.py` copies those of `import_annotations.groovy` into the
others; a test looks whether they are the same.
"""

import re
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "qupath_scripts"
SOURCE = SCRIPTS / "import_annotations.groovy"
BLOCK = re.compile(r"^// >>> shared: (\w+)\n.*?^// <<< shared: \1\n", re.DOTALL | re.MULTILINE)


def blocks(text: str) -> dict[str, str]:
    """Return the shared parts of a script by name."""
    return {match[1]: match[0] for match in BLOCK.finditer(text)}


def updated(text: str, source: str) -> str:
    """Return a script with its shared parts as they are in another."""
    parts = blocks(source)
    return BLOCK.sub(lambda match: parts[match[1]], text)


if __name__ == "__main__":
    for script in SCRIPTS.glob("*.groovy"):
        text = script.read_text(encoding="utf-8")
        script.write_text(updated(text, SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
