"""Write docs/reasons.md from the table in rollout/model/reasons.py.

Run from the repository root: `PYTHONPATH=. python tools/write_reasons.py`. The comments in the table are the headings.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from rollout.model import reasons
from rollout.model.reasons import REASONS

PAGE = Path(__file__).parents[1] / "docs" / "reasons.md"

HEAD = """\
# Reasons

Why a stack is refused or warned about: one code for each reason, what it means, and what to do. `rollout admit`,
`rollout diff`, `rollout matrix check`, `rollout engines` and the capability gate tell them; a waiver may name one.
`block` refuses, `warn` and `info` are reported. A code never changes its meaning.

This page is written by `tools/write_reasons.py`.
"""

_LINE = re.compile(r'^ {8}(?:# (?P<title>.+)\.|"(?P<code>[a-z_]+)": _(?:block|warn|info)\(.*)$', re.MULTILINE)


def page() -> str:
    """Return the page."""
    return HEAD + "".join(_lines())


def _lines() -> Iterator[str]:
    for found in _LINE.finditer(inspect.getsource(reasons)):
        if found["title"]:
            yield f"\n## {found['title']}\n\n| code | severity | meaning | remedy |\n|---|---|---|---|\n"
        else:
            told = REASONS[found["code"]]
            yield f"| `{found['code']}` | {told.severity} | {told.meaning} | {told.remedy} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
