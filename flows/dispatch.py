"""Dispatch: start what was decided while the server was down: `python -m flows.dispatch`. `make up` does it."""

from configs.recipe import load_recipe
from configs.settings import load_settings
from flows import shell
from tasks.account import logger
from tasks.core.errors import PerennialError
from tasks.deciding import dispatch_pending, open_outbox


def dispatch_all() -> None:
    """Every project of this home; one whose recipe cannot be read keeps no other one waiting."""
    for folder in sorted((load_settings().root / "outbox").glob("*")):
        if not (entries := open_outbox(folder.name).entries()):
            continue
        newest = entries[-1].wanted
        try:
            recipe = load_recipe(newest.recipe, newest.overrides)
            dispatch_pending.fn(folder.name, recipe.govern.max_attempts)
        except PerennialError as error:
            logger.warning("%-10s %-22s not started: %s", "pending", folder.name, error)


if __name__ == "__main__":
    shell.show_account()
    dispatch_all()
