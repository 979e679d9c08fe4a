"""A document's text that a person gives in a file."""

from pathlib import Path


def text_of(file: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: It cannot be read, or is no text.
    """
    try:
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; give a file that holds the text") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: byte {error.start} is no UTF-8; give the text as it was delivered"
        ) from error
