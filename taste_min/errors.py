"""The one exception that users meet: a sentence that says what is wrong and what to do."""


class TasteError(Exception):
    """A problem the user can act on. The command line prints its one sentence and exits with code 2."""
