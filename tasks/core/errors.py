"""One exception class per cause; every message says what, got, expected and fix."""


class PerennialError(Exception):
    """A run that cannot go on, told so that the reader can act.

    `what` names the thing that is wrong, `got` what was found, `expected` what would have been right,
    `fix` what to do about it.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        parts = [what]
        parts += [f"  got:      {got}"] if got is not None else []
        parts += [f"  expected: {expected}"] if expected is not None else []
        parts += [f"  fix:      {fix}"] if fix is not None else []
        super().__init__("\n".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        # Exception pickles by its one argument, the message; ours has keyword-only parts.
        return (_rebuild, (type(self), self.what, self.got, self.expected, self.fix))


def _rebuild(kind: type[PerennialError], what: str, got: object, expected: object, fix: str | None) -> PerennialError:
    return kind(what, got=got, expected=expected, fix=fix)


class RecipeError(PerennialError):
    """A recipe that is missing, unreadable, or says something that cannot be."""


class SourceError(PerennialError):
    """A source that cannot be read, or that lacks what the recipe asks of it."""


class ValidationError(PerennialError):
    """A batch that may not be published."""


class LakeError(PerennialError):
    """A lake table that is missing, or a write that would break its contract."""


class FeatureError(PerennialError):
    """A feature definition or a feature table that does not hold its contract."""


class LeakageError(PerennialError):
    """A training set in which the future, or the answer, shows."""


class FitError(PerennialError):
    """A fit that stopped: non-finite gradient, no memory, no disk, a dead process."""


class ModelError(PerennialError):
    """A model that cannot be loaded, or does not predict as it did."""


class PromotionError(PerennialError):
    """A promotion that may not happen, or collided with another one."""
