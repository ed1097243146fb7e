"""The one exception that means "the user can put this right"."""


class UserError(Exception):
    """A mistake in the config, the data or the machine's state, told in one line.

    The command line prints the message alone and exits with status 2.
    """
