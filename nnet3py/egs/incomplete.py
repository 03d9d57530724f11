"""What the scanner of encoded examples raises when its buffer ends before the example does."""


class Incomplete(Exception):  # noqa: N818 - a state of the buffer, not a fault
    """The buffer ends inside an example; at least ``size`` bytes from the buffer's start are needed."""

    def __init__(self, size: int) -> None:
        super().__init__(f"at least {size} bytes are needed")
        self.size = size
