"""The table of reasons: every code that the source uses stands in it, and the page is written from it."""

import ast
import re
import runpy
from pathlib import Path

from rollout.gates.differences import CODES, UNKNOWN
from rollout.model.reasons import REASONS
from rollout.model.waiver import Waiver
from rollout.serving.judge import _CUDA_CODES, _NVML_CODES
from rollout.serving.messages import FALLBACK_LANGUAGE
from rollout.serving.plans.faults import PlanFault

ROOT = Path(__file__).parents[3]
SOURCES = [
    *(ROOT / "rollout/serving").rglob("*.py"),
    *(ROOT / "rollout/gates").glob("capabilities.py"),
    *(ROOT / "rollout/model").glob("matrix.py"),
]
ANSWERS = {"app.py", "image_request.py", "work_queue.py"}
"""Their codes are those of HTTP answers."""

TABLES = {
    UNKNOWN,
    *(code for _, _, code in CODES),
    *(code for _, code in FALLBACK_LANGUAGE),
    *_CUDA_CODES.values(),
    *_NVML_CODES.values(),
    *(fault.value for fault in PlanFault),
}


def named():
    """Yield the codes that calls name: as `code=`, as an argument of a finding, or bound to `code` or `_CODE`."""
    for path in SOURCES:
        if path.name in ANSWERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.keyword(arg="code", value=value):
                    yield from strings(value)
                case ast.Call(func=ast.Name(id="_finding"), args=[first, *_]):
                    yield from strings(first)
                case ast.Call(func=ast.Name(id="_said"), args=[_, first, *_]):
                    yield from strings(first)
                case ast.Assign(targets=[ast.Name(id="code" | "_CODE")], value=value):
                    yield from strings(value)


def strings(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    if isinstance(node, ast.IfExp):
        yield from strings(node.body)
        yield from strings(node.orelse)


def test_every_code_that_the_source_uses_stands_in_the_table():
    used = {*named(), *TABLES}
    assert {"matrix_mismatch", "capability_lost", "provider_dropped", "self_test_failed"} <= used
    assert used <= set(REASONS)


def test_no_code_of_the_table_is_left_over():
    source = "".join(path.read_text() for path in (ROOT / "rollout").rglob("*.py") if path.name != "reasons.py")
    assert [code for code in REASONS if not re.search(rf'"{code}"', source)] == []


def test_the_page_says_what_the_table_says():
    """Where it does not: `PYTHONPATH=. python tools/write_reasons.py`."""
    text = (ROOT / "docs/reasons.md").read_text()
    assert text == runpy.run_path(str(ROOT / "tools/write_reasons.py"))["page"]()
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == set(REASONS)
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {5}


def test_every_code_may_be_waived():
    for code in REASONS:
        Waiver.model_validate({"what": code, "who": "ops", "why": "a test", "until": "2026-11-01"})
