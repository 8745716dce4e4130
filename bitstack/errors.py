"""The one exception for input that cannot be used.

Every message is one line that names the field or file, the value, what is allowed and what to
do. The command line prints it and exits with code 2; any other exception is a bug.
"""

import textwrap


class UserError(ValueError):
    """Input that cannot be used: a folder, a budget, a recipe, a text, a device.

    Its message is one line that names the input and says what to do.

    Example:
        >>> import bitstack
        >>> try:
        ...     model = bitstack.load("my-container", budget="1 byte")
        ... except bitstack.UserError as error:
        ...     print(error)
        budget '1 byte' is not understood; allowed: a number with ...
    """


def one_line(error: Exception) -> str:
    """Returns the message of an error on one line; transformers' lists of all models are cut."""
    kind = type(error).__name__
    text = f"{kind}: {error}" if isinstance(error, KeyError) else str(error) or kind
    return textwrap.shorten(text, 300, placeholder=" …")
