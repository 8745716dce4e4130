"""The one exception a user can cause.

Every message is one line that names the field or file, the value, what is allowed and what to
do. The command line prints it and exits with code 2; anything else is a bug and keeps its
traceback.
"""


class UserError(ValueError):
    """Input that cannot be used: a folder, a budget, a recipe, a text, a device."""
