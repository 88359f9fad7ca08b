"""Takes a drawing out of a page that `libra` wrote, as an SVG file of its own.

python scripts/figure.py runs/granularity/report.html 0 docs/assets/granularity.svg
"""

import re
import sys
from pathlib import Path


def main(page: Path, number: int, out: Path) -> None:
    """Writes the page's `number`-th drawing with the page's styles."""
    text = page.read_text(encoding="utf-8")
    drawings = re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    styles = "".join(re.findall(r"<style>.*?</style>", text, flags=re.DOTALL))
    if number >= len(drawings):
        raise SystemExit(f"{page} has {len(drawings)} drawings: there is no number {number}")
    head, rest = drawings[number].split(">", 1)
    named = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    out.write_text(f"{named}>{styles}{rest}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
