"""Write docs/models.md, the page of the models, from the registry."""

from pathlib import Path

from weft.study.models import models_page

if __name__ == "__main__":
    path = Path(__file__).resolve().parent.parent / "docs" / "models.md"
    path.write_text(models_page(), encoding="utf-8")
