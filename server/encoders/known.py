"""What is known of the models people use: dimensions, lengths they were trained for, prompts, limits, licence.

Facts stand as the model card or the API's pages give them, named by `source`; where those disagree or say nothing,
`note` says so. Nothing here is read from a model: what a model's own files say goes first.
"""

import re
from dataclasses import dataclass, replace

RETRIEVAL_PROMPT = "Represent this sentence for searching relevant passages: "


@dataclass(frozen=True)
class KnownModel:
    """One model. Prompts are exact, their last space included; empty: the model wants none."""

    name: str
    """The hub's or the API's."""
    aliases: tuple[str, ...]
    """Other names: Ollama's, with the tags that mean this model, and twopass's own."""
    dim: int
    matryoshka: tuple[int, ...]
    """Shorter lengths that its maker trained it for or vouches for, longest first; empty: none."""
    query_prompt: str
    document_prompt: str
    max_tokens: int
    """What it reads of a text, prompt and special tokens included."""
    licence: str
    """SPDX identifier."""
    memory_mib: int
    """Of a process that serves it as float32 with ONNX Runtime: its weights and about 80 MiB; 0: it runs elsewhere."""
    source: str
    """Where the facts stand."""
    layer_norm: bool = False
    """Whether a layer norm without weights comes before the vector may be cut short."""
    any_length_from: int = 0
    """The least length from which its maker offers every one; 0: only those of `matryoshka`."""
    gguf_max_tokens: int = 0
    """What the copies for llama.cpp read, Ollama's and LM Studio's among them, where that is less than max_tokens."""
    note: str = ""

    @property
    def is_matryoshka(self) -> bool:
        return bool(self.matryoshka or self.any_length_from)

    @property
    def lengths(self) -> str:
        """Its shorter lengths, for people; empty if it has none."""
        if self.any_length_from:
            return f"{self.any_length_from} to {self.dim}"
        return ", ".join(str(length) for length in self.matryoshka)


KNOWN_MODELS: tuple[KnownModel, ...] = (
    KnownModel(
        name="sentence-transformers/all-MiniLM-L6-v2",
        # Ollama's all-minilm is L6 unless the tag says 33m or l12.
        aliases=("bundled", "all-minilm", "all-minilm:22m", "all-minilm:l6", "all-minilm:22m-l6-v2"),
        dim=384,
        matryoshka=(),
        query_prompt="",
        document_prompt="",
        max_tokens=256,
        licence="Apache-2.0",
        memory_mib=163,
        source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        note="Comes with twopass. Reads 256 tokens, was trained on 128.",
    ),
    KnownModel(
        name="Snowflake/snowflake-arctic-embed-m-v1.5",
        aliases=(),
        dim=768,
        matryoshka=(256,),
        query_prompt=RETRIEVAL_PROMPT,
        document_prompt="",
        max_tokens=512,
        licence="Apache-2.0",
        memory_mib=500,
        source="https://huggingface.co/Snowflake/snowflake-arctic-embed-m-v1.5",
    ),
    KnownModel(
        name="Snowflake/snowflake-arctic-embed-m-v2.0",
        aliases=(),
        dim=768,
        matryoshka=(256,),
        query_prompt="query: ",
        document_prompt="",
        max_tokens=8192,
        licence="Apache-2.0",
        memory_mib=1250,
        source="https://huggingface.co/Snowflake/snowflake-arctic-embed-m-v2.0",
        note="Brings code of its own, which twopass doesn't run; it needs a library that knows the type 'gte'.",
    ),
    KnownModel(
        name="Snowflake/snowflake-arctic-embed-l-v2.0",
        aliases=("snowflake-arctic-embed2", "snowflake-arctic-embed2:568m", "snowflake-arctic-embed2:568m-l"),
        dim=1024,
        matryoshka=(256,),
        query_prompt="query: ",
        document_prompt="",
        max_tokens=8192,
        licence="Apache-2.0",
        memory_mib=2250,
        source="https://huggingface.co/Snowflake/snowflake-arctic-embed-l-v2.0",
    ),
    KnownModel(
        name="nomic-ai/nomic-embed-text-v1.5",
        aliases=("nomic-embed-text", "nomic-embed-text:v1.5", "nomic-embed-text:137m-v1.5"),
        dim=768,
        matryoshka=(512, 256, 128, 64),
        query_prompt="search_query: ",
        document_prompt="search_document: ",
        max_tokens=8192,
        licence="Apache-2.0",
        memory_mib=600,
        source="https://huggingface.co/nomic-ai/nomic-embed-text-v1.5",
        layer_norm=True,
        gguf_max_tokens=2048,
        note="Trained on 2048 tokens.",
    ),
    KnownModel(
        name="mixedbread-ai/mxbai-embed-large-v1",
        aliases=(
            "mxbai-embed-large",
            "mxbai-embed-large:335m",
            "mxbai-embed-large:335m-v1",
            "mxbai-embed-large:v1",
        ),
        dim=1024,
        matryoshka=(512,),
        query_prompt=RETRIEVAL_PROMPT,
        document_prompt="",
        max_tokens=512,
        licence="Apache-2.0",
        memory_mib=1360,
        source="https://huggingface.co/mixedbread-ai/mxbai-embed-large-v1",
        note="Matryoshka by its card, which shows 512 and lists no lengths; other pages name 768, 256 and 128 too.",
    ),
    KnownModel(
        name="Qwen/Qwen3-Embedding-0.6B",
        # Without a tag, Ollama's qwen3-embedding is the model of 8B.
        aliases=("qwen3-embedding:0.6b",),
        dim=1024,
        matryoshka=(),
        query_prompt=(
            "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
        ),
        document_prompt="",
        max_tokens=32768,
        licence="Apache-2.0",
        memory_mib=2350,
        source="https://huggingface.co/Qwen/Qwen3-Embedding-0.6B",
        any_length_from=32,
        note="Its card offers every length and doesn't say which ones it was trained for.",
    ),
    KnownModel(
        name="google/embeddinggemma-300m",
        aliases=("embeddinggemma", "embeddinggemma:300m"),
        dim=768,
        matryoshka=(512, 256, 128),
        query_prompt="task: search result | query: ",
        document_prompt="title: none | text: ",
        max_tokens=2048,
        licence="LicenseRef-Gemma",
        memory_mib=1250,
        source="https://huggingface.co/google/embeddinggemma-300m",
        note="Under the Gemma terms of use: the hub gives it to users who accepted them.",
    ),
    KnownModel(
        name="sentence-transformers/static-retrieval-mrl-en-v1",
        aliases=(),
        dim=1024,
        matryoshka=(512, 256, 128, 64, 32),
        query_prompt="",
        document_prompt="",
        max_tokens=512,
        licence="Apache-2.0",
        memory_mib=200,
        source="https://huggingface.co/sentence-transformers/static-retrieval-mrl-en-v1",
        note="A mean of word vectors: it has no limit of its own, and twopass reads 512 tokens.",
    ),
    KnownModel(
        name="text-embedding-3-small",
        aliases=("openai/text-embedding-3-small",),
        dim=1536,
        matryoshka=(512,),
        query_prompt="",
        document_prompt="",
        max_tokens=8191,
        licence="LicenseRef-OpenAI",
        memory_mib=0,
        source="https://openai.com/index/new-embedding-models-and-api-updates/",
        any_length_from=1,
        note="OpenAI gives results for 512 and 1536 dimensions; its pages say 8191 and 8192 tokens.",
    ),
    KnownModel(
        name="text-embedding-3-large",
        aliases=("openai/text-embedding-3-large",),
        dim=3072,
        matryoshka=(1024, 256),
        query_prompt="",
        document_prompt="",
        max_tokens=8191,
        licence="LicenseRef-OpenAI",
        memory_mib=0,
        source="https://openai.com/index/new-embedding-models-and-api-updates/",
        any_length_from=1,
        note="OpenAI gives results for 256, 1024 and 3072 dimensions; its pages say 8191 and 8192 tokens.",
    ),
)

# What programs put around a model's name: where it came from, LM Studio's prefix, the file format, a quantization.
BEFORE = re.compile(r"(?:hf\.co/|huggingface\.co/|library/)*(text-embedding-(?!3-))?")
BEHIND = re.compile(r"-(gguf|onnx)$")
QUANTIZATION = re.compile(r"(?:^|-)(?:latest|b?fp?(?:16|32)|(?:qat-)?i?q\d\w*)$")


def known(name: str) -> KnownModel | None:
    """The model of this name, in the hub's, the API's, Ollama's or LM Studio's spelling; upper or lower case.

    The owner may be missing; another owner's copy may be another model: None. A tag may add a quantization, as in
    nomic-embed-text:137m-v1.5-fp16.
    """
    spelled = name.strip().lower().partition("@")[0]
    before = BEFORE.match(spelled)
    assert before is not None  # it matches the empty text too
    base, _, tag = spelled[before.end() :].partition(":")
    plain = BEHIND.sub("", base)
    tag = QUANTIZATION.sub("", tag)
    is_gguf = before[1] is not None or base.endswith("-gguf")
    for model in KNOWN_MODELS:
        is_alias = (f"{plain}:{tag}" if tag else plain) in model.aliases
        if is_alias or (not tag and plain in (model.name.lower(), model.name.lower().rpartition("/")[2])):
            if model.gguf_max_tokens and (is_gguf or is_alias):
                return replace(model, max_tokens=model.gguf_max_tokens)
            return model
    return None


def prefix_warnings(model_name: str, dim: int, prefix_dim: int, order: str) -> list[str]:
    """What speaks against comparing the first `prefix_dim` of `dim` dimensions of this model's vectors; for people.

    `order` is the setting index.order. Nothing is said of models that aren't known, nor in the corpus's order, which
    makes any length of any model a good one. In the order `auto` a measurement decides from 1000 rows on, and before
    that the pool of 80 candidates is a good part of everything: a model that isn't Matryoshka is then no mistake, a
    length that its maker doesn't vouch for may still be one.
    """
    model = known(model_name)
    if model is None or model.dim != dim or prefix_dim >= dim or order == "corpus":
        return []
    if not model.is_matryoshka:
        if order == "auto":
            return []
        return [
            f"{model.name} was not trained so that its first {prefix_dim} of {dim} dimensions say what all of them "
            "say, and index.order is 'model'. Set index.order to 'corpus' or 'auto'."
        ]
    if prefix_dim in model.matryoshka or 0 < model.any_length_from <= prefix_dim:
        return []
    measured = (
        " From 1000 rows on, a measurement decides which order your texts get." if order == "auto" else ""
    )
    return [
        f"index.prefix_dim is {prefix_dim}; the lengths that {model.name} was trained for are {model.lengths}. "
        f"Set it to one of them, or index.order to 'corpus', in which any length will do.{measured}"
    ]
