"""Real files of the kinds that `twopass ingest` converts, made here, each with some words in it."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def pdf(*lines: str) -> bytes:
    """A page with some lines of text."""
    shown = b"".join(f"({line}) Tj T* ".encode("latin-1") for line in lines)
    content = b"BT /F1 12 Tf 14 TL 72 720 Td " + shown + b"ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R "
        b"/Resources << /Font << /F1 4 0 R >> >> >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    made, places = bytearray(b"%PDF-1.4\n"), []
    for number, each in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    made += b"".join(b"%010d 00000 n \n" % place for place in places)
    made += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table)
    return bytes(made)


def zipped(files: Mapping[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def docx(parts: Sequence[tuple[str, str]]) -> bytes:
    """A document of headings, each with a paragraph; without a heading where that is empty."""
    body = "".join(
        (
            f'<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>{heading}</w:t></w:r></w:p>'
            if heading
            else ""
        )
        + f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"
        for heading, text in parts
    )
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    return zipped({
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{kind}.document.main+xml"/>'
        f'<Override PartName="/word/styles.xml" ContentType="{kind}.styles+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" '
        f'Type="{OFFICE}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" '
        f'Type="{OFFICE}/styles" Target="styles.xml"/></Relationships>',
        "word/styles.xml": f'<w:styles xmlns:w="{WORD}"><w:style w:type="paragraph" w:styleId="Heading1">'
        '<w:name w:val="heading 1"/></w:style></w:styles>',
        "word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
    })  # fmt: skip


def pptx(slides: Sequence[tuple[str, str]]) -> bytes:
    """Slides with a title and a text."""
    from pptx import Presentation

    presentation, made = Presentation(), io.BytesIO()
    for title, text in slides:
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
    presentation.save(made)
    return made.getvalue()


def xlsx(sheets: Mapping[str, Sequence[Sequence[object]]]) -> bytes:
    """Sheets of rows, the first of which are their headings."""
    from openpyxl import Workbook

    book, made = Workbook(), io.BytesIO()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(made)
    return made.getvalue()


def epub(title: str, chapters: Sequence[tuple[str, str]]) -> bytes:
    """A book of chapters, each with its heading."""
    files = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
        "book.opf": '<package xmlns="http://www.idpf.org/2007/opf"><metadata '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></metadata><manifest>'
        + "".join(
            f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>'
            for n in range(len(chapters))
        )
        + "</manifest><spine>"
        + "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
        + "</spine></package>",
    }
    for n, (heading, text) in enumerate(chapters):
        files[f"c{n}.xhtml"] = f"<html><body><h1>{heading}</h1><p>{text}</p></body></html>"
    return zipped(files)


def eml(subject: str, text: str, html: str = "", attachment: str = "") -> bytes:
    """A mail, its text plain and as HTML, with something attached that is no PDF."""
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = subject, "Ada <ada@example.org>", "bob@example.org"
    mail["Date"] = "Tue, 02 Jan 2024 10:00:00 +0100"
    if text:
        mail.set_content(text)
    if html:
        mail.add_alternative(html, subtype="html") if text else mail.set_content(html, subtype="html")
    if attachment:
        mail.add_attachment(b"\0\1", maintype="application", subtype="octet-stream", filename=attachment)
    return bytes(mail)


def mail(subject: str, text: str, *attached: tuple[str, bytes] | tuple[str, bytes, str]) -> bytes:
    """A mail of July, and files attached to it: a name (none: ""), a content and, but for PDF, a type.

    A content of type message/rfc822 is a mail.
    """
    made = EmailMessage(policy=SMTP)
    made["Subject"], made["From"], made["To"] = subject, "Eve <eve@example.org>", "Bob <bob@example.org>"
    made["Date"] = "Wed, 03 Jul 2024 08:30:00 +0000"
    made.set_content(text)
    for name, content, *kind in attached:
        main, sub = (kind[0] if kind else "application/pdf").split("/")
        if main == "message":
            made.add_attachment(message_from_bytes(content, policy=SMTP), filename=name or None)
        else:
            made.add_attachment(content, maintype=main, subtype=sub, filename=name or None)
    return bytes(made)


def raw_mail(*heads: str | bytes, content: bytes = b"Words.") -> bytes:
    """A mail whose body is `Body.`, with a part for each of those headers of a part, just as they are given."""
    parts = [b"Content-Type: text/plain\n\nBody.\n"]
    parts += [
        (each.encode() if isinstance(each, str) else each) + b"\n\n" + content + b"\n" for each in heads
    ]
    top = b"Subject: Raw\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=cut\n\n"
    return top + b"".join(b"--cut\n" + each for each in parts) + b"--cut--\n"


def nested_parts(depth: int) -> bytes:
    """A mail whose one part has one part, and so on."""
    return b"Subject: x\n" + b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(depth)
    )


def nested_mails(depth: int) -> bytes:
    """A mail with a text, to which one with a text is attached, and so on."""
    made = b"Subject: the last\nContent-Type: text/plain\n\nThe bottom.\n"
    for n in range(depth, 0, -1):
        cut = b"cut%d" % n
        made = (
            b"Subject: level %d\nContent-Type: multipart/mixed; boundary=%s\n\n" % (n, cut)
            + b"--%s\nContent-Type: text/plain\n\nText of level %d.\n" % (cut, n)
            + b"--%s\nContent-Type: message/rfc822\n\n" % cut
            + made
            + b"--%s--\n" % cut
        )
    return made


END, FREE, FAT_SECTOR, NONE = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFF


def padded(content: bytes, filler: bytes) -> bytes:
    missing = max(4096, -(-len(content) // 512) * 512) - len(content)
    return content + filler * (missing // len(filler))


def msg(subject: str, text: str) -> bytes:
    """A mail as Outlook saves it: a compound file with a stream for each property."""
    streams = {
        "__properties_version1.0": b"\0" * 32,
        "__substg1.0_0037001F": subject.encode("utf-16-le"),
        "__substg1.0_1000001F": text.encode("utf-16-le"),
    }
    names = sorted(streams, key=lambda name: (len(name), name.upper()))
    # Streams of 4096 bytes or more lie in sectors of their own, which spares the file a second table for short ones.
    contents = [padded(streams[name], b" \0" if "substg" in name else b"\0") for name in names]
    n_folder_sectors = 1 + len(names) // 4
    table = [FAT_SECTOR, *range(2, n_folder_sectors + 1), END]
    starts = []
    for each in contents:
        starts.append(len(table))
        table += [*range(len(table) + 1, len(table) + len(each) // 512), END]
    assert len(table) <= 128

    def entry(name: str, kind: int, right: int, child: int, start: int, size: int) -> bytes:
        raw = (name + "\0").encode("utf-16-le")
        return struct.pack(
            "<64sHBBIII16sIQQIQ", raw, len(raw), kind, 1, NONE, right, child, b"", 0, 0, 0, start, size
        )

    folder = entry("Root Entry", 5, NONE, 1, END, 0)
    for n, name in enumerate(names):
        right = n + 2 if n + 1 < len(names) else NONE
        folder += entry(name, 2, right, NONE, starts[n], len(contents[n]))
    folder = folder.ljust(n_folder_sectors * 512, b"\0")
    header = struct.pack(
        "<8s16sHHHHH6sIIIIIIIIII", bytes.fromhex("d0cf11e0a1b11ae1"), b"", 0x3E, 3, 0xFFFE, 9, 6, b"",
        0, 1, 1, 0, 4096, END, 0, END, 0, 0,
    )  # fmt: skip
    header += struct.pack("<108I", *[FREE] * 108)
    fat = struct.pack("<128I", *table, *[FREE] * (128 - len(table)))
    return header + fat + folder + b"".join(contents)
