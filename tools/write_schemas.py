"""Write the JSON Schemas of what others read and write into `docs/schemas/`.

python tools/write_schemas.py    # A test compares the files with the models.
"""

import json
from pathlib import Path

from rollout.files.json_schemas import MODELS, json_schema

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schemas"


def main() -> None:
    """Write one file for each kind."""
    FOLDER.mkdir(exist_ok=True)
    for kind in MODELS:
        (FOLDER / f"{kind}.json").write_text(schema_text(kind))


def schema_text(kind: str) -> str:
    """Return a schema as it stands in its file."""
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
