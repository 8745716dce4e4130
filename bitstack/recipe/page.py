"""The page `docs/recipes.md`, made from the fields of `Recipe` and the shipped recipes.

`scripts/make_recipes_doc.py` writes it. Does not read a recipe itself; see `recipe.loading`.
"""

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from bitstack import recipes
from bitstack.recipe.loading import load_recipe
from bitstack.recipe.old_names import OLD_NAMES
from bitstack.recipe.schema import OVERRIDABLE, Recipe

_HEAD = """# Recipes

A recipe says how a model is compressed. It is a YAML file of the fields below; every field has a
default, so a file holds only what it changes. This page is made from the code by
`scripts/make_recipes_doc.py`.

```
compress-model run MODEL --output out/small --calibration text.txt            # recipe default
compress-model run MODEL --output out/small --recipe fast --blocks 4          # an option goes first
compress-model run MODEL --output out/small --recipe mine.yaml
```

```python
import bitstack

bitstack.compress("path/to/model", "out/small", recipe="fast", calibration="text.txt", blocks=4)
```

An option or keyword overrides the file, and the file overrides the defaults. On the command line
every field is an option: `num_samples` is `--num-samples`, a list is written `2.2,3.2`, and
`column_scaling` is `--column-scaling` or `--no-column-scaling`.
"""
_EXAMPLES = """## A file

```yaml
# mine.yaml: half as many blocks, more text, tuned for use near 2.2 and 3.2 bits per weight
calibration: text.txt
blocks: 4
num_samples: 256
target_bits: [2.2, 3.2]
```

## Other fields for some matrices

`overrides` gives the matrices whose names match a pattern other values. `*` matches any part of a
name; of two patterns that match, the later one counts. `dense: true` leaves a matrix as it is.

```yaml
overrides:
  "*.down_proj": {blocks: 6}
  "*.layers.0.*": {search_sweeps: 4, joint_passes: 8}
  lm_head: {dense: true}
```

On the command line: `--overrides '{"*.down_proj": {blocks: 6}, "lm_head": {dense: true}}'`.
"""
_KINDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}


def recipes_page() -> str:
    """Returns the page as Markdown."""
    allowed = ", ".join(f"`{name}`" for name in OVERRIDABLE)
    parts = [
        _HEAD,
        "## The shipped recipes\n",
        _table(("recipe", "what it is for", "differs from `default` in"), _shipped()),
        "## The fields\n",
        "A description that begins with `codes:` or `signs:` belongs to that `method` only. The "
        "old names, of version 0.1, are still read, with a warning.\n",
        _table(("field", "values", "default", "what it does", "old name"), _fields()),
        _EXAMPLES,
        f"Allowed in `overrides`: {allowed}.\n",
    ]
    return "\n".join(parts)


def _shipped() -> Iterator[list[str]]:
    default = load_recipe("default").model_dump(exclude={"name"})
    for name in ("default", *(name for name in recipes.names() if name != "default")):
        lines = recipes.named(name).read_text().splitlines()
        comment = takewhile(lambda line: line.startswith("#"), lines)
        purpose = " ".join(line.removeprefix("#").strip() for line in comment)
        own = load_recipe(name).model_dump(exclude={"name"})
        changes = [
            f"`{field}: {_text(own[field])}`" for field in own if own[field] != default[field]
        ]
        yield [f"`{name}`", purpose, ", ".join(changes) or "–"]


def _fields() -> Iterator[list[str]]:
    default = load_recipe()
    for name, field in Recipe.model_fields.items():
        old = f"`{OLD_NAMES[name]}`" if name in OLD_NAMES else ""
        yield [
            f"`{name}`",
            _values(field),
            f"`{_text(getattr(default, name))}`",
            field.description or "",
            old,
        ]


def _values(field: FieldInfo) -> str:
    """Returns the type of a field and its limits in words."""
    kind: Any = field.annotation
    limits = {
        sign: getattr(limit, sign)
        for limit in field.metadata
        for sign in ("ge", "gt", "le")
        if hasattr(limit, sign)
    }
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra["metavar"] == "SIZE":
        return "bytes, or a size such as `200MB`"
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is list:
        return f"list of {_KINDS[get_args(kind)[0]]}s"
    if get_origin(kind) is dict:
        return "pattern: {field: value}"
    lower = [f"at least {limits['ge']}"] if "ge" in limits else []
    lower += [f"above {limits['gt']}"] if "gt" in limits else []
    upper = [f"at most {limits['le']}"] if "le" in limits else []
    return ", ".join([_KINDS[kind], *lower, *upper])


def _text(value: Any) -> str:
    """Returns a value as a YAML file has it."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    )


def _table(head: Iterable[str], rows: Iterable[list[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
