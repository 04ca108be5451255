"""The words in which `twopass models` tells what is known, what is here, and what was measured."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from server.models.verdict import PromptTrial, RecallTrial
from server.printing import counted, duration, plain, size

if TYPE_CHECKING:  # certify imports the encoders, which take a while
    from server.models.certify import Certificate
    from server.models.pulling import Pulled
    from server.models.shelf import Entry, Present


def models_table(entries: "list[Entry]") -> Table:
    """What is known and what is here, a line for each model."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    table.add_column("dim", justify="right", no_wrap=True)
    table.add_column("shorter")
    for name in ("tokens", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("here")
    for entry in entries:
        model = entry.known
        here = "" if entry.present is None else ", ".join([entry.present.where, *_short(entry.present)])
        if model is None:
            table.add_row(plain(entry.name), "?", "?", "?", "?", "?", here)
            continue
        table.add_row(
            model.name.rpartition("/")[2],  # which is enough for every command and setting
            str(model.dim),
            model.lengths or "-",
            f"{model.max_tokens:,}",
            f"{model.memory_mib:,}" if model.memory_mib else "-",
            model.licence.removeprefix("LicenseRef-"),
            here,
        )
    return table


def entry_lines(entry: "Entry") -> Iterator[str]:
    """Everything that is known of a model, and its files."""
    yield plain(entry.name)
    model, present = entry.known, entry.present
    if model is None:
        yield "  twopass knows nothing of this model beyond what its files say."
    else:
        if model.aliases:
            yield f"  also called      {', '.join(model.aliases)}"
        yield f"  dimensions       {model.dim}"
        yield f"  shorter lengths  {model.lengths or 'none; index.order corpus makes any length a good one'}"
        if model.layer_norm:
            yield "  before cutting   a layer norm"
        yield from _prompt_pair(model.query_prompt, model.document_prompt)
        yield f"  tokens           {model.max_tokens:,}"
        if model.gguf_max_tokens:
            yield f"                   {model.gguf_max_tokens:,} as Ollama and LM Studio have it"
        yield f"  licence          {model.licence}"
        runs = f"about {model.memory_mib:,} MiB as float32" if model.memory_mib else "runs elsewhere"
        yield f"  memory           {runs}"
        yield f"  source           {model.source}"
        if model.note:
            yield f"  note             {model.note}"
    if present is None:
        fetched = model is not None and model.memory_mib == 0
        yield "  here             no" + (
            "" if fetched else f"; `twopass models pull {plain(entry.name)}` fetches it"
        )
        return
    if any(present.prompts) and (
        model is None or present.prompts != (model.query_prompt, model.document_prompt)
    ):
        yield "  its files say"
        yield from _prompt_pair(*present.prompts)
    yield f"  here             {present.where}, {size(present.bytes)} in {plain(str(present.path))}"
    widest = max(map(len, present.files), default=0)
    for name, n_bytes in present.files.items():
        digest = f"  sha256 {present.sha256[name][:16]}…" if name in present.sha256 else ""
        yield f"    {plain(name):<{widest}}  {size(n_bytes):>8}{digest}"
    for precision, export in present.exports.items():
        yield (
            f"  ONNX {precision:<12}{size(export.bytes)}; cosine with torch's vectors {export.cosine_mean:.6f} on "
            f"average, {export.cosine_min:.6f} at least"
        )


def _short(present: "Present") -> list[str]:
    return ["onnx" if precision == "float32" else precision for precision in present.exports]


def pulled_lines(pulled: "Pulled") -> Iterator[str]:
    """Say what was fetched or found."""
    manifest = pulled.manifest
    files = f"{counted(len(manifest.files), 'file')}, {size(manifest.bytes)}"
    if pulled.mended:
        yield f"Fetched again, because missing or changed: {', '.join(map(plain, pulled.mended))}"
    if pulled.was_here:
        yield f"{manifest.model} is here and whole: {files}, commit {manifest.commit[:12]}"
    else:
        yield f"{manifest.model} is here: {files}, commit {manifest.commit[:12]}"
    yield f"  {plain(str(pulled.folder.path))}"
    yield f"To serve with it: TWOPASS_ENCODER__MODEL={manifest.model} twopass serve"


def certificate_lines(certificate: "Certificate") -> Iterator[str]:
    """Say what was measured, and the verdict."""
    yield f"{plain(certificate.model)} on {_drawn(certificate)}"
    if certificate.duplicates:
        yield f"  {counted(certificate.duplicates, 'passage')} stand there more than once; any of them counts"
    if certificate.recall:
        yield from _recall_lines(certificate.recall)
    if certificate.prompts:
        yield from _prompt_lines(certificate.prompts)
    speed = certificate.speed
    took = [f"{speed.texts_per_s:,.0f} passages/s"]
    if speed.query_ms is not None:
        took.append(f"{speed.query_ms:.1f} ms a question")
    if speed.memory_bytes is not None:
        took.append(f"{size(speed.memory_bytes)} of memory")
    took.append(f"loaded in {duration(speed.load_s)}")
    where = "Encoded elsewhere" if speed.is_remote else f"On this machine ({certificate.precision})"
    yield f"{where}: {' · '.join(took)}"
    yield certificate.verdict


def _drawn(certificate: "Certificate") -> str:
    of_all = "" if certificate.texts == certificate.texts_in_all else f" of {certificate.texts_in_all:,}"
    return (
        f"{counted(certificate.passages, 'passage')} of {counted(certificate.texts, 'text')}{of_all}; "
        f"{certificate.texts_split:,} of the texts are longer than {certificate.max_tokens:,} tokens"
    )


def _recall_lines(recall: RecallTrial) -> Iterator[str]:
    yield (
        f"Recall@10 of {recall.questions} questions, against the full vectors; the corpus's order was fitted on "
        f"{recall.fitted_on:,} other passages"
    )
    yield f"  {'':>10}  {f'among {recall.pool} candidates':^19}  {'the prefix alone':^17}"
    yield f"  {'dimensions':>10}  {'corpus':>9}{'model':>10}  {'corpus':>8}{'model':>9}"
    for of_corpus, of_model in zip(recall.corpus, recall.model, strict=True):
        yield (
            f"  {of_corpus.prefix_dim:>10}  {of_corpus.pooled:>9.4f}{of_model.pooled:>10.4f}  "
            f"{of_corpus.alone:>8.4f}{of_model.alone:>9.4f}"
        )
    yield "  More passages than these take more candidates or dimensions: GET /stats has what the server measured."


def _prompt_lines(prompts: PromptTrial) -> Iterator[str]:
    yield f"Known passages, found by how they begin: MRR@10 {prompts.mrr:.3f}, nDCG@10 {prompts.ndcg:.3f}" + (
        "" if prompts.mrr_without is None else
        f"; without prompts {prompts.mrr_without:.3f}, {prompts.ndcg_without:.3f}"
    )  # fmt: skip


def _prompt_pair(query: str, document: str) -> Iterator[str]:
    yield f"  query prompt     {_prompt(query)}"
    yield f"  document prompt  {_prompt(document)}"


def _prompt(prompt: str) -> str:
    return json.dumps(prompt, ensure_ascii=False) if prompt else "none"
