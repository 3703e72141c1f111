"""The one exception whose message is meant for a person, not for a traceback."""


class UserError(ValueError):
    """Something the user can mend: the message is one sentence saying what is wrong and how to mend it.

    The command line prints the message alone and exits with status 2; library callers catch it as a `ValueError`.
    """
