"""SQL expressions of a recipe: each is one expression and no more, so that it cannot end the query it is put into."""

from collections.abc import Mapping

from tasks.core.errors import RecipeError


def refuse_statements(expressions: Mapping[str, str]) -> None:
    """`expressions` by their place in the recipe; what stands in FROM begins with that word.

    What is no SQL at all is left to whoever runs it, who knows the columns.

    Raises:
        RecipeError: an expression that ends its query, and begins another statement.
    """
    import duckdb

    for place, text in expressions.items():
        # The line break ends a comment.
        try:
            statements = duckdb.extract_statements(
                f"select * {text}\n" if text.startswith("from ") else f"select ({text}\n)"
            )
        except duckdb.Error:
            continue
        if len(statements) != 1:
            raise RecipeError(
                f"{place} is more than an expression", got=text, expected="one SQL expression, without a semicolon",
                fix=f"correct {place} in the recipe",
            )  # fmt: skip
