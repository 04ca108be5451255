"""What is attached to mails: documents of their own that lead back to the mail; a hostile one costs only itself."""

import io
import json
import os
import zipfile
from collections import Counter
from email.message import EmailMessage

import made_files
import pytest
from conftest import called
from hypothesis import given, settings
from hypothesis import strategies as st

from server.converting import attachments, process
from server.converting.converter import Converter, NotReadNow
from server.converting.kinds import kind_attached
from server.converting.mail import read_mail
from server.decoding import UnreadableError
from server.folders import syncing
from server.incoming import Skips
from server.readers import read_file

INVOICE = made_files.pdf("Invoice for the repair of the weathervane.", "Due on the third of August.")


@pytest.fixture
def read(converter, tmp_path):
    """Returns what becomes of a mail: its documents by id, what was skipped, and what was passed over."""

    def read(content, converter=converter, **limits):
        path = tmp_path / "a.eml"
        path.write_bytes(content)
        skips, others = Skips(kept=1000), Counter()
        documents = {
            each["id"]: each for each in read_file(path, "a.eml", skips.add, converter, others, **limits)
        }
        skipped = [(each.source.removeprefix(str(tmp_path) + "/"), each.reason) for each in skips.first]
        return documents, skipped, dict(others)

    return read


def texts_of(documents):
    return {identifier: each["text"] for identifier, each in documents.items()}


def test_what_is_attached_becomes_documents_that_lead_back_to_the_mail(read):
    documents, skipped, _ = read(
        made_files.mail(
            "The vane", "See the invoice.", ("invoice.pdf", INVOICE), ("todo.md", TODO, "text/markdown")
        )
    )
    assert skipped == []
    mail, invoice, *todo = documents.values()
    about = {"from": "Eve <eve@example.org>", "date": "2024-07-03T08:30:00Z"}
    assert (mail["id"], mail["text"]) == ("a.eml", "See the invoice.")
    assert mail["metadata"]["attachments"] == ["invoice.pdf", "todo.md"]
    assert invoice["id"] == "a.eml#attachment/invoice.pdf"
    assert invoice["text"].split("\n")[0] == "Invoice for the repair of the weathervane."
    assert invoice["metadata"] == about | {
        "path": mail["metadata"]["path"], "title": "The vane › invoice.pdf", "to": "Bob <bob@example.org>",
        "subject": "The vane", "attachment": "invoice.pdf",
    }  # fmt: skip
    assert [(each["id"], each["metadata"]["title"]) for each in todo] == [
        ("a.eml#attachment/todo.md", "The vane › todo.md › To do"),
        ("a.eml#attachment/todo.md/garden", "The vane › todo.md › To do › Garden"),
    ]


TODO = b"# To do\n\nBread.\n\n## Garden\n\nBeans.\n"
PLAIN, OCTETS = "text/plain", "application/octet-stream"
KINDS = [
    ("notes.txt", b"Words.", PLAIN, "Words."),
    ("notes.rst", b"Notes\n=====\n\nWords.", OCTETS, "Notes\n=====\n\nWords."),
    ("page.html", b"<title>Page</title><p>Words.</p>", "text/html", "Words."),
    ("a.pdf", made_files.pdf("Words."), OCTETS, "Words."),
    ("a.docx", made_files.docx([("", "Words.")]), OCTETS, "Words."),
    ("a.epub", made_files.epub("Book", [("One", "Words.")]), OCTETS, "# One\n\nWords."),
    ("a.msg", made_files.msg("Subject", "Words."), OCTETS, "Words."),
    ("a.xlsx", made_files.xlsx({"S": [["Words."]]}), OCTETS, "Words."),
    ("a.pptx", made_files.pptx([("T", "Words.")]), OCTETS, "Words."),
]


def test_every_kind_that_is_read_in_a_folder_is_read_where_it_is_attached(read):
    documents, skipped, _ = read(made_files.mail("All", "Body.", *[each[:3] for each in KINDS]))
    assert skipped == []
    for name, _, _, words in KINDS:
        parts = [each["text"] for each in documents.values() if each["metadata"].get("attachment") == name]
        assert words in "\n".join(parts), name
    titles = {name: documents[f"a.eml#attachment/{name}"]["metadata"]["title"] for name, *_ in KINDS}
    assert titles["notes.rst"] == "All › notes.rst › Notes"
    assert titles["page.html"] == "All › page.html › Page"


def test_a_mail_that_is_forwarded_is_a_document_of_its_own_and_what_hangs_on_it_too(read):
    forwarded = made_files.eml("Roof", "It leaks.")
    inner = made_files.mail(
        "Tiles", "How many?", ("list.txt", b"Ninety.", PLAIN), ("", forwarded, "message/rfc822")
    )
    documents, skipped, _ = read(
        made_files.mail("Fwd", "See below.", ("", inner, "message/rfc822"), ("roof.eml", forwarded, OCTETS))
    )
    assert skipped == []
    message = "a.eml#attachment/message.eml"
    assert texts_of(documents) == {
        "a.eml": "See below.",
        message: "How many?",
        f"{message}/attachment/list.txt": "Ninety.",
        f"{message}/attachment/message.eml": "It leaks.",
        "a.eml#attachment/roof.eml": "It leaks.",
    }
    titles = [each["metadata"]["title"] for each in documents.values()]
    assert titles == ["Fwd", "Fwd › Tiles", "Fwd › Tiles › list.txt", "Fwd › Tiles › Roof", "Fwd › Roof"]
    assert documents[f"{message}/attachment/list.txt"]["metadata"]["subject"] == "Tiles"
    roof = documents["a.eml#attachment/roof.eml"]["metadata"]
    assert {name: roof[name] for name in ("subject", "from", "date", "attachment")} == {
        "subject": "Roof", "from": "Ada <ada@example.org>", "date": "2024-01-02T09:00:00Z", "attachment": "roof.eml",
    }  # fmt: skip


def test_a_mail_without_a_text_has_the_documents_of_what_is_attached(read):
    documents, skipped, _ = read(made_files.mail("Scan", "\n", ("invoice.pdf", INVOICE)))
    assert (list(documents), skipped) == (["a.eml#attachment/invoice.pdf"], [])
    documents, skipped, _ = read(
        made_files.mail("Scan", "\n", ("x.pdf", b"no pdf"), ("x.png", b"x", "image/png"))
    )
    [(source, reason)] = skipped
    assert (documents, source) == ({}, "a.eml#attachment/x.pdf")
    assert reason.startswith("can't be converted")


def test_pictures_signatures_and_invitations_are_passed_over_in_silence_and_counted(read):
    signed = [
        ("logo.png", b"x", "image/png"), ("photo.PNG", b"x", OCTETS),
        ("smime.p7s", b"x", "application/pkcs7-signature"),
        ("signature.asc", b"-----BEGIN PGP SIGNATURE-----", PLAIN), ("invite.ics", b"BEGIN:VCALENDAR", "text/calendar"),
        ("", b"x", "application/pgp-signature"), ("rows.jsonl", b'{"id": "mine", "text": "x"}', OCTETS),
    ]  # fmt: skip
    documents, skipped, others = read(made_files.mail("Signed", "Body.", *signed))
    assert (texts_of(documents), skipped) == ({"a.eml": "Body."}, [])
    assert others == {".png": 2, ".p7s": 1, ".asc": 1, ".ics": 1, "no suffix": 1, ".jsonl": 1}


def test_an_invitation_beside_the_text_is_no_part_of_it(read):
    mail = EmailMessage()
    mail["Subject"] = "Meeting"
    mail.set_content("At noon.")
    mail.add_alternative("BEGIN:VCALENDAR", subtype="calendar")
    documents, _, others = read(bytes(mail))
    assert (texts_of(documents), others) == ({"a.eml": "At noon."}, {"no suffix": 1})


def disposition(value):
    return f"Content-Type: text/plain\nContent-Disposition: attachment; {value}"


NAMES = [
    ("filename=plain.txt", "plain.txt"),
    ('filename="=?utf-8?Q?Gr=C3=BC=C3=9Fe.txt?="', "Grüße.txt"),
    ("filename*=utf-8''Gr%C3%BC%C3%9Fe.txt", "Grüße.txt"),
    ("filename*0*=utf-8''%C3%A4; filename*1=b.txt", "äb.txt"),
    ("filename*=klingon''x.txt", "x.txt"),
    ('filename="../../../etc/passwd.txt"', "passwd.txt"),
    ("filename*=utf-8''..%2F..%2Fx.txt", "x.txt"),
    ('filename="C:\\\\Users\\\\me\\\\x.txt"', "x.txt"),
    ('filename=".."', "unnamed.txt"),
    ('filename="/"', "unnamed.txt"),
    ("filename=", "unnamed.txt"),
    ('filename=""', "unnamed.txt"),
    ("filename*0", "unnamed.txt"),
    ('filename=".hidden.txt"', "hidden.txt"),
    ("filename*=utf-8''a%00%1B%5B31m%0Ab.txt", "a [31m b.txt"),
    ("filename*=utf-8''invoice%E2%80%AEfdp.txt", "invoice fdp.txt"),
    (b'filename="caf\xe9.txt"', "caf\ufffd.txt"),
    ('filename="a#b?c%2F.txt"', "a#b?c%2F.txt"),
    (f'filename="{"x" * 300}.txt"', "x" * 116 + ".txt"),
    (f"filename*=utf-8''{'%C3%A4' * 300}.txt", "ä" * 58 + ".txt"),
]


@pytest.mark.parametrize(("written", "name"), NAMES)
def test_names_are_read_as_they_are_meant_and_lead_nowhere(read, written, name):
    head = b"Content-Type: text/plain\nContent-Disposition: attachment; "
    documents, skipped, _ = read(
        made_files.raw_mail(head + (written if isinstance(written, bytes) else written.encode()))
    )
    assert skipped == []
    assert list(documents) == ["a.eml", f"a.eml#attachment/{name}"]
    assert documents[f"a.eml#attachment/{name}"]["metadata"]["attachment"] == name


def test_names_that_come_twice_are_numbered(read):
    heads = [disposition(f"filename={name}") for name in ("x.txt", "x-2.txt", "x.txt", "x.txt", "x")]
    documents, _, _ = read(made_files.raw_mail(*heads, disposition("a=b"), disposition("a=b")))
    names = ["x.txt", "x-2.txt", "x-3.txt", "x-4.txt", "x", "unnamed.txt", "unnamed-2.txt"]
    assert list(documents) == ["a.eml", *(f"a.eml#attachment/{name}" for name in names)]
    assert documents["a.eml#attachment/x-3.txt"]["metadata"]["attachment"] == "x.txt"


@pytest.mark.parametrize(
    ("name", "content_type", "kind"),
    [
        ("a.pdf", "application/octet-stream", ".pdf"),
        ("a.PDF", "image/png", ".pdf"),
        ("a.docx", "application/zip", ".docx"),
        ("a.dat", "application/pdf", ".pdf"),
        ("README", "text/plain", ".txt"),
        ("debug.log", "text/plain", ".txt"),
        ("fix.patch", "text/x-patch", ".txt"),
        ("", "message/rfc822", ".eml"),
        ("a.eml", "application/octet-stream", ".eml"),
        ("a.pdf", "message/external-body", ""),
        ("a.zip", "application/zip", ""),
        ("a.png", "image/png", ""),
        ("", "application/octet-stream", ""),
    ],
)
def test_a_name_says_more_of_a_kind_than_a_type(name, content_type, kind):
    assert kind_attached(name, content_type) == kind


def test_a_text_is_read_in_the_charset_that_its_part_names(read):
    def head(charset):
        return f"Content-Type: text/plain; charset={charset}; name={charset}.txt"

    documents, skipped, _ = read(made_files.raw_mail(head("iso-8859-1"), head("klingon"), content=b"caf\xe9"))
    assert skipped == []
    assert [each["text"].strip() for each in documents.values()] == ["Body.", "café", "caf\ufffd"]
    _, skipped, _ = read(made_files.raw_mail("Content-Type: text/plain; name=x.txt", content=b"caf\xe9"))
    assert skipped == [("a.eml#attachment/x.txt", "is not UTF-8 (byte 3); save it as UTF-8")]


BROKEN = [
    ("base64.txt", "Content-Type: text/plain; name=base64.txt\nContent-Transfer-Encoding: base64", b"YWJjZ",
     "can't be decoded: its base64 is broken"),
    ("empty.txt", "Content-Type: text/plain; name=empty.txt", b"", "is empty"),
    ("empty.pdf", "Content-Type: application/pdf; name=empty.pdf", b"", "can't be converted"),
    ("picture.txt", "Content-Type: image/png; name=picture.txt", b"\x89PNG\0", "is binary, not text"),
    ("page.docx", "Content-Type: text/html; name=page.docx", b"<p>Words.</p>", "can't be converted"),
    ("junk.eml", "Content-Type: message/rfc822; name=junk.eml", b"no mail at all", "is no e-mail"),
    ("deep.eml", "Content-Type: message/rfc822; name=deep.eml", made_files.nested_parts(3000),
     "can't be converted: it is nested too deep"),
    ("scan.pdf", "Content-Type: application/pdf; name=scan.pdf", made_files.pdf(), "has no text; if it is scanned"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "head", "content", "reason"), BROKEN, ids=[each[0] for each in BROKEN])
def test_one_that_is_broken_is_told_by_name_and_the_mail_and_the_others_are_read(
    read, name, head, content, reason
):
    mail = made_files.raw_mail(head, content=content).removesuffix(b"--cut--\n")
    mail += b"--cut\nContent-Type: text/plain; name=good.txt\n\nGood.\n--cut--\n"
    documents, skipped, _ = read(mail)
    assert list(documents) == ["a.eml", "a.eml#attachment/good.txt"]
    [(source, why)] = skipped
    assert source == f"a.eml#attachment/{name}"
    assert why.startswith(reason)


def bomb():
    """A small .docx that unpacks to 150 MiB."""
    made = io.BytesIO(made_files.docx([("", "x")]))
    with zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/footnotes.xml", b" " * (150 << 20))
    return made.getvalue()


def test_one_that_bursts_or_hangs_costs_only_itself(read, monkeypatch):
    """A page that keeps its parser busy for minutes, and an archive that unpacks to more memory than there is."""
    mail = made_files.mail(
        "Bombs", "Body.", ("bomb.docx", bomb(), OCTETS), ("good.docx", made_files.docx([("", "Good.")]), OCTETS),
        ("busy.html", b"<a " * 100_000, "text/html"), ("good.txt", b"Fine.", PLAIN),
    )  # fmt: skip
    with Converter(limit_s=60.0, memory_bytes=100 << 20) as converter:
        convert = converter.convert

        def impatient(path, parts=(), kind=""):
            with monkeypatch.context() as patch:
                patch.setattr(converter, "limit_s", 1.0 if kind == ".html" else 60.0)
                return convert(path, parts, kind)

        monkeypatch.setattr(converter, "convert", impatient)
        documents, skipped, _ = read(mail, converter)
    assert texts_of(documents) == {
        "a.eml": "Body.", "a.eml#attachment/good.docx": "Good.", "a.eml#attachment/good.txt": "Fine.",
    }  # fmt: skip
    assert skipped == [
        ("a.eml#attachment/bomb.docx", "takes more than 100 MiB of memory to convert"),
        ("a.eml#attachment/busy.html", "took longer than 1 s to convert, and was given up"),
    ]


def test_mails_in_mails_are_read_five_deep(read):
    documents, skipped, _ = read(made_files.nested_mails(1000))
    assert [each["text"] for each in documents.values()] == [f"Text of level {n}." for n in range(1, 7)]
    [(source, reason)] = skipped
    assert source == "a.eml#" + "/".join(["attachment/message.eml"] * 6)
    assert reason == "isn't read, nor what is beside it: mails in mails are read 5 deep"


def test_of_one_mail_so_many_attachments_are_read_those_of_mails_in_it_among_them(read, monkeypatch):
    assert attachments.MAX_ATTACHMENTS == 100
    monkeypatch.setattr(attachments, "MAX_ATTACHMENTS", 10)
    notes = [(f"{n}.txt", b"Words.", PLAIN) for n in range(6)]
    inner = made_files.mail("Inner", "Body.", *notes)
    documents, skipped, _ = read(
        made_files.mail("Outer", "Body.", ("in.eml", inner, "message/rfc822"), *notes)
    )
    assert len(documents) == 1 + 10
    assert skipped == [
        ("a.eml#attachment/3.txt", "isn't read, nor what comes after it: one mail may have 10 attachments")
    ]


def test_texts_and_times_of_all_attachments_are_bounded(read, monkeypatch):
    mail = made_files.mail("Much", "Body.", *[(f"{n}.txt", b"word " * 100_000, PLAIN) for n in range(5)])
    monkeypatch.setattr(attachments, "MAX_TEXT_BYTES", 1 << 20)
    documents, skipped, _ = read(mail)
    assert len(documents) == 1 + 3
    assert skipped == [
        (
            "a.eml#attachment/3.txt",
            "isn't read, nor what comes after it: one mail's attachments may have 1 MiB of text",
        )
    ]
    monkeypatch.setattr(attachments, "MAX_LIMITS", 0)
    documents, skipped, _ = read(mail)
    assert len(documents) == 1 + 1
    assert skipped == [
        (
            "a.eml#attachment/1.txt",
            "isn't read, nor what comes after it: one mail's attachments may take 0 s to convert",
        )
    ]


def test_a_text_that_the_server_would_not_take_is_told_by_name(read):
    long = ("long.txt", b"word " * 1000, PLAIN)
    documents, skipped, _ = read(made_files.mail("Long", "Body.", long), text_bytes=1000)
    assert list(documents) == ["a.eml"]
    [(source, reason)] = skipped
    assert (source, reason.partition(",")[0]) == ("a.eml#attachment/long.txt", "has 0.0 MB of text")


def test_a_mail_that_is_larger_than_one_may_be_is_refused():
    stream = io.BytesIO(b"x" * (process.MAX_MAIL_BYTES + 1))
    with pytest.raises(UnreadableError, match="is larger than a mail may be \\(64 MiB\\)"):
        process.mail_bytes(stream)


def test_a_mail_that_changed_between_two_looks_harms_nobody(converter, tmp_path):
    path = tmp_path / "a.eml"
    path.write_bytes(made_files.eml("x", "Body."))
    with pytest.raises(UnreadableError, match="isn't there any more: the mail has changed"):
        converter.convert(path, [7], ".pdf")
    with pytest.raises(NotReadNow, match="no such file"):
        converter.convert(tmp_path / "gone.eml", [1], ".pdf")


SURROGATE = "\ud800".encode(errors="surrogatepass").decode("latin-1")
HEADER = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40),
    st.lists(
        st.sampled_from(
            ["attachment", "; ", "filename", "*", "0", "1", "=", "utf-8''", "%FF", "%C3%BC", '"', "=?utf-8?Q?", "=FC",
             "?=", "=?utf-7?B?2AA=?=", "text/plain", "message/rfc822", "multipart/mixed", "boundary=cut",
             "name", "charset=", "..", "/", "\\", "(", "<", "@", ",", ":", SURROGATE]
        ),
        max_size=14,
    ).map("".join),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(HEADER, HEADER, HEADER, HEADER)
def test_no_header_is_so_odd_that_a_mail_becomes_a_fault(content_type, disposed, coding, subject):
    head = (
        f"Content-Type: {content_type}\nContent-Disposition: {disposed}\nContent-Transfer-Encoding: {coding}"
    )
    mail = made_files.raw_mail(head).replace(b"Subject: Raw", b"Subject: " + subject.encode())
    made = read_mail(mail)
    assert made.text.startswith("Body.")
    for name in [
        made.title,
        *made.metadata.get("attachments", []),
        *(each.name for each in made.attachments),
    ]:
        name.encode()
    for each in made.attachments:
        assert each.name and each.name.isprintable() and not {"/", "\\"} & {*each.name}
        assert each.name not in (".", "..")


# The command, against a real server


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "mails"
    made.mkdir()
    return made


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return path


@pytest.fixture
def ingest(texts, tmp_path, folder):
    """Runs the command on the folder as JSON, and returns its report."""

    def run(*words):
        state = str(tmp_path / "state.sqlite3")
        done = called(tmp_path, "ingest", str(folder), *words, "--json", "--state", state, url=texts.url)
        report = json.loads(done.out)
        assert report["exit_code"] == done.code
        return report

    return run


@pytest.fixture
def stored(texts, folder):
    """Returns the ids that the server has of the folder's documents, as they go on below it."""

    def ids():
        after = str(folder).lstrip("/") + "/"
        page = texts.http.get("/documents", params={"after": after, "limit": 1000}).json()["documents"]
        return [each["id"].removeprefix(after) for each in page if each["id"].startswith(after)]

    return ids


def counts(report):
    return tuple(report[name] for name in ("created", "updated", "unchanged", "deleted", "exit_code"))


def never(*arguments, **named):
    raise AssertionError("this was not to be called")


def test_an_invoice_that_came_with_a_mail_is_found_and_leads_to_the_mail(ingest, texts, folder):
    path = write(folder, "letter.eml", made_files.mail("July", "As agreed.", ("invoice.pdf", INVOICE)))
    write(folder, "other.eml", made_files.mail("Holidays", "We are at the sea until Friday."))
    assert counts(ingest()) == (3, 0, 0, 0, 0)
    question = {
        "query": "what does the repair of the weathervane cost",
        "k": 1,
        "filter": {"path": str(path)},
    }
    [hit] = texts.http.post("/search", json=question).json()["hits"]
    assert hit["id"] == str(path).lstrip("/") + "#attachment/invoice.pdf"
    assert hit["metadata"]["subject"] == "July"
    quoted = hit["id"].replace("#", "%23")
    assert texts.http.get(f"/documents/{quoted}").json()["text"] == hit["text"]


def test_a_broken_attachment_is_told_in_each_run_and_nothing_is_read_again(
    ingest, folder, stored, monkeypatch
):
    attached = [("bad.pdf", b"junk"), ("invoice.pdf", INVOICE), ("logo.png", b"x", "image/png")]
    path = write(folder, "letter.eml", made_files.mail("July", "As agreed.", *attached))
    first = ingest()
    assert counts(first) == (2, 0, 0, 0, 1)
    assert stored() == ["letter.eml", "letter.eml#attachment/invoice.pdf"]
    assert [each["source"] for each in first["skipped"]] == [f"{path}#attachment/bad.pdf"]
    assert first["passed_over"]["attached"] == {".png": 1}
    monkeypatch.setattr(syncing, "read_file", never)
    second = ingest()
    assert counts(second) == (0, 0, 2, 0, 1)
    assert second["skipped"] == first["skipped"]


def test_what_is_passed_over_on_mails_is_said(texts, tmp_path, folder):
    mail = made_files.mail("July", "Look.", ("a.png", b"x", "image/png"), ("b.png", b"x", "image/png"))
    write(folder, "a.eml", mail)
    write(folder, "b.zip", b"")
    done = called(tmp_path, "ingest", str(folder), "--state", str(tmp_path / "state"), url=texts.url)
    assert done.code == 0
    assert done.out.splitlines()[1:] == [
        "Passed over: 1 file of other kinds (1 .zip), 2 attachments of other kinds (2 .png)"
    ]


def test_what_was_attached_goes_with_the_mail_and_what_is_no_more_attached_with_the_change(
    ingest, folder, stored
):
    path = write(
        folder, "letter.eml", made_files.mail("July", "Both.", ("a.txt", b"A", PLAIN), ("b.txt", b"B", PLAIN))
    )
    ingest()
    write(folder, "letter.eml", made_files.mail("July", "Both.", ("b.txt", b"B", PLAIN)))
    assert counts(ingest()) == (0, 1, 1, 1, 0)  # the mail names what is attached
    assert stored() == ["letter.eml", "letter.eml#attachment/b.txt"]
    path.unlink()
    write(folder, "other.txt", b"Another.")
    assert counts(ingest("--delete")) == (1, 0, 0, 2, 0)
    assert stored() == ["other.txt"]


def test_without_markitdown_the_rest_is_stored_and_the_mail_is_read_again_when_it_is_there(
    ingest, folder, stored, tmp_path, monkeypatch
):
    path = write(
        folder, "letter.eml", made_files.mail("July", "Both.", ("a.pdf", INVOICE), ("b.txt", b"B", PLAIN))
    )
    stub = tmp_path / "packages" / "markitdown"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'markitdown'\")")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(stub.parent))
        for expected in ((2, 0, 0, 0, 1), (0, 0, 2, 0, 1)):
            report = ingest()
            assert counts(report) == expected
            [skipped] = report["skipped"]
            assert skipped["source"] == str(path)
            assert skipped["reason"] == (
                "what is attached isn't all read: .pdf files need markitdown, which isn't installed here: "
                "pip install 'twopass[files]'"
            )
    assert counts(ingest()) == (1, 0, 2, 0, 0)
    everything = ["letter.eml", "letter.eml#attachment/a.pdf", "letter.eml#attachment/b.txt"]
    assert stored() == everything
    write(folder, "letter.eml", made_files.mail("July", "New!", ("a.pdf", INVOICE), ("b.txt", b"B", PLAIN)))
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(stub.parent))
        assert counts(ingest()) == (0, 1, 1, 0, 1)
    assert stored() == everything
    path.unlink()
    write(folder, "other.txt", b"Another.")
    assert counts(ingest("--delete")) == (1, 0, 0, 3, 0)
