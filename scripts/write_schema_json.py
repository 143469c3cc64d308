"""Write docs/schema.json, the JSON Schema of a schema file."""

import json
from pathlib import Path

from weft.schema import json_schema

if __name__ == "__main__":
    path = Path(__file__).resolve().parent.parent / "docs" / "schema.json"
    path.write_text(json.dumps(json_schema(), indent=1) + "\n")
