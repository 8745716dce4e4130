"""The one exception for input that cannot be used.

Every message is one line that names the field or file, the value, what is allowed and what to
do. The command line prints it and exits with code 2; any other exception is a bug.
"""


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
