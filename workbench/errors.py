"""The one error whose sentence is meant for the person at the keyboard."""


class WorkbenchError(ValueError):
    """Something the user can mend; the message names the value, and the choices or what would do."""
