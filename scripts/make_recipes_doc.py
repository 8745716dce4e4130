"""Writes docs/recipes.md, the page of the recipes and their fields, from the code.

    python scripts/make_recipes_doc.py           # into docs/recipes.md
    python scripts/make_recipes_doc.py --print   # to stdout

Run it after a change of a field of `Recipe` or of a file in recipes/; a test compares the two.
"""

import argparse
import sys
from pathlib import Path

from bitstack.recipe.page import recipes_page

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write docs/recipes.md from the code.")
    parser.add_argument("--print", action="store_true", help="print the page, write nothing")
    if parser.parse_args(arguments).print:
        sys.stdout.write(recipes_page())
        return
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(recipes_page())
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
