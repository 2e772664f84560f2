"""The exception for errors that the user can fix."""


class HarnessError(Exception):
    """An error that the user can fix; its message is one line with the cause and the cure.

    The command line prints only the message and exits with status 1.
    """
