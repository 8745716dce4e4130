"""Refuses wrong input before torch is imported, which takes seconds.

What is wrong within a file is said later, by those who read it; here stands only what is missing,
and whether a container can be had at a budget. The Hub is not asked.
"""

from collections.abc import Iterable
from pathlib import Path

from bitstack.errors import UserError


def check_inputs(
    *models: str,
    budgets: Iterable[str | None] = (),
    level: int | None = None,
    texts: Iterable[str | None] = (),
    files: Iterable[Path | None] = (),
    tasks: Iterable[str] | None = None,
    tasks_folder: Path | None = None,
) -> None:
    """Checks what a command was given to read. None among budgets and texts stands for none.

    Args:
        models: Containers and original models, as `compress-model` takes them.
        budgets: Of the containers among them.
        level: Level of the containers, instead of a budget.
        texts: Text sources.
        files: Other files.
        tasks: Names of tasks; those of a `tasks_folder` are not known here.

    Raises:
        UserError: One is missing, or a container cannot be loaded at a budget.
    """
    from bitstack.container.recognition import is_container
    from bitstack.original.documents import check_source

    wanted = list(budgets)
    for model in models:
        if is_container(model):
            check_container(model, budgets=wanted, level=level)
        else:
            _check_budgets(wanted)
            check_model_there(model)
    for text in texts:
        if text is not None:
            check_source(text)
    for file in files:
        if file is not None and not file.is_file():
            raise UserError(f"{file}: no such file")
    _check_tasks(tasks, tasks_folder)


def _check_tasks(tasks: Iterable[str] | None, folder: Path | None) -> None:
    from bitstack import recipes

    if folder is not None and not folder.is_dir():
        raise UserError(f"--tasks-folder {folder}: no such folder")
    known = sorted(file.stem for file in recipes.tasks().glob("*.yaml"))
    unknown = [name for name in tasks or () if name not in known]
    if unknown and folder is None:
        raise UserError(
            f"--tasks: {', '.join(unknown)}; known are {', '.join(known)}, and those of task files "
            "in --tasks-folder"
        )


def check_container(
    folder: str, *, budgets: Iterable[str | None] = (), level: int | None = None
) -> None:
    """Checks that a container is there, and can be had at each of `budgets`, or at a level.

    Raises:
        UserError: It is not, or cannot.
    """
    from bitstack.container.levels import choose_levels
    from bitstack.container.manifest import read_manifest
    from bitstack.original.hub_cache import is_remote

    wanted = list(budgets)
    _check_budgets(wanted)
    if not is_remote(folder):
        manifest = read_manifest(Path(folder))
        for budget in wanted or [None]:
            choose_levels(manifest, budget, level)


def check_model_there(model: str) -> None:
    """Checks that a model is there; one on the Hub is not asked for.

    Raises:
        UserError: It is neither a folder or file here, nor a name that the Hub may have.
    """
    from bitstack.original.hub_cache import GGUF, is_remote

    there = Path(model).is_dir() or (Path(model).exists() and model.endswith(GGUF))
    if not there and not is_remote(model):
        raise UserError(
            f"{model}: no such folder; give the folder of a container or of a Hugging Face model, "
            "or a name on the Hub (owner/name)"
        )


def _check_budgets(budgets: Iterable[str | None]) -> None:
    from bitstack.container.budget import check_budget

    for budget in budgets:
        if budget is not None:
            check_budget(budget)
