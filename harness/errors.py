"""The one exception a user is meant to read."""


class HarnessError(Exception):
    """Something the user can mend: its message is one line that names the cause and the cure.

    The command line prints the message alone and exits with status 1; a traceback would only hide the line.
    """
