"""Takes the film strips of failures out of a page that `libra eval` wrote, as pictures.

python scripts/strips.py runs/eval/report.html docs/assets/failure
"""

import base64
import re
import sys
from pathlib import Path

STRIP = re.compile(
    r'<img src="data:image/(\w+);base64,([^"]+)" alt="stills of a failure: ([\w-]+)"'
)


def main(page: Path, prefix: str) -> None:
    """Writes `PREFIX-CLASS.EXTENSION` for each class of failure that the page shows."""
    found = STRIP.findall(page.read_text(encoding="utf-8"))
    if not found:
        raise SystemExit(f"{page} shows no failure: libra eval --videos failures records them")
    for kind, data, name in found:
        Path(f"{prefix}-{name}.{kind}").write_bytes(base64.b64decode(data))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
