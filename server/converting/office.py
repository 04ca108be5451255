"""The one place that imports markitdown: office files, PDF and books as Markdown.

Its converters are taken one by one, by the file's suffix. The class MarkItDown would guess the kind from the content,
unpack archives, call programs and fetch what a file names.
"""

import re
from functools import partial
from typing import BinaryIO

from markitdown import DocumentConverter, MissingDependencyException, StreamInfo
from markitdown.converters import (
    DocxConverter,
    EpubConverter,
    OutlookMsgConverter,
    PdfConverter,
    PptxConverter,
    XlsxConverter,
)

from server.converting.converted import Converted, Reader

CONVERTERS: dict[str, type[DocumentConverter]] = {
    ".pdf": PdfConverter,
    ".docx": DocxConverter,
    ".pptx": PptxConverter,
    ".xlsx": XlsxConverter,
    ".epub": EpubConverter,
    ".msg": OutlookMsgConverter,
}

PICTURE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
SLIDE_NUMBER = re.compile(r"<!-- Slide number: \d+ -->\s*")


def reader_of(suffix: str) -> Reader:
    """Return what turns a file of this kind into Markdown; of a PDF and a mail into plain text."""
    return partial(_read, CONVERTERS[suffix](), StreamInfo(extension=suffix))


def _read(converter: DocumentConverter, info: StreamInfo, stream: BinaryIO) -> Converted:
    """Raises ModuleNotFoundError where a package isn't installed that reads this kind of file."""
    try:
        made = converter.convert(stream, info)
    except MissingDependencyException as error:
        raise ModuleNotFoundError(str(error)) from error
    text = SLIDE_NUMBER.sub("", PICTURE.sub(r"\1", made.markdown))
    return Converted(" ".join((made.title or "").split()), text.strip())
