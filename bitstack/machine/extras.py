"""Packages that only some commands need: the extras of pyproject.toml.

Does not install or import them; says in one line what to install.
"""

from importlib.util import find_spec

from bitstack.errors import UserError

EXTRA_OF = {
    "datasets": "eval",
    "lm_eval": "eval",
    "scipy": "eval",
    "matplotlib": "report",
    "gguf": "gguf",
    "fastapi": "serve",
    "openai": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
}


def require(*modules: str) -> None:
    """Checks, without importing them, that packages of an extra are installed.

    Called right before their import, and before hours of work that would need them at its end.

    Args:
        modules: Names as imported, keys of EXTRA_OF.

    Raises:
        UserError: For the first that is missing, with the extra to install.
    """
    for module in modules:
        spec = find_spec(module)
        # A folder of that name in the working directory has a spec too, but no file.
        if spec is None or spec.origin is None:
            extra = EXTRA_OF[module]
            raise UserError(
                f"{module} is not installed; install bitstack with its extra {extra!r}, "
                f'in a checkout: pip install -e ".[{extra}]"'
            )
