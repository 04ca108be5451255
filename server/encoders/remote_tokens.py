"""How many tokens a text may be to a model whose tokenizer nobody has here: counted with a stand-in.

The stand-in is the bundled model's vocabulary, with everything that other tokenizers take more tokens for counted
one by one: signs, digits, line breaks, capitals, and characters beyond ASCII. Measured on 40 texts in 21 languages,
code, tables and random strings, real tokens for each one counted here, English / the largest: BERT 1.00 / 1.00,
OpenAI's cl100k 0.95 / 1.21 and 1.67 for rare Chinese characters, o200k 0.94 / 1.10. What the program itself says it
counted, where it says that, corrects the rest: see remote_probes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from server.encoders.bundled import find_bundled
from server.encoders.errors import RemoteEncoderRefused
from server.encoders.fingerprint import Role
from server.encoders.tokens import TokenCounter
from server.settings import PassageSettings, SettingsError

UNKNOWN_RATIO = (
    1.25  # real tokens for each counted one, where the program doesn't say: covers XLM-RoBERTa's 1.2
)
LEAST_RATIO, LARGEST_RATIO = 1.0, 4.0  # below: the probes were easy ones; above: `usage` can't be tokens
MARGIN = 1.05  # above the largest ratio that was found
MIN_TEXT_TOKENS = 16  # of text that a passage must hold beside the prompt; shorter ones say nothing
MARK = "~"
# What is counted with how many tokens, in this order: no mark must make a new match for a later line.
TIMES = (
    (r"[ \t]{2,4}", 1),
    (r"[^\S \t]", 1),
    (r"[\x{10000}-\x{10FFFF}]", 3),  # emoji, rare characters: 4 bytes, up to 3 tokens
    (r"[\x{1200}-\x{139F}]", 3),  # Ethiopic
    (r"[\x{0900}-\x{11FF}\x{1400}-\x{1CFF}\x{2000}-\x{2E7F}\x{A4D0}-\x{D7A3}\x{E000}-\x{F8FF}\x{FB00}-\x{FFFF}]", 2),
    (r"[^\x00-\x7F]", 1),
    (r"[A-Z]{2}", 1),
)  # fmt: skip
WORD_OR_SIGN = r"[a-z]{1,16}|[^a-z]"

# Short texts of several scripts, of code, of long words and numbers: what tokenizers differ in.
RATIO_PROBES = (
    "When the tide goes out over the flats, the boats settle on their sides and wait. The ferry comes twice a day, "
    "the post once, and the weather whenever it likes. In the harbour office a clerk keeps a ledger of arrivals and "
    "of small complaints, written in a hand that nobody else can read.",
    "def total(rows: list[dict], key='price') -> float:\n    if not rows:\n        return 0.0\n    "
    "return sum(float(row[key]) * 1.19 for row in rows)  # 2024-11-30, 1048576 / 4096\n\nHTTPServer.getRequestURL()\n",
    "Immunohistochemistry showed adenocarcinoma; hydroxychloroquine was discontinued after thrombocytopenia. "
    "Die Geschwindigkeitsüberschreitung im Bürgerbüro; l'été où nous étions près de l'hôtel; źdźbło trawy drży.",
    "Кошка спит на подоконнике, а за окном идёт дождь. Η γάτα κοιμάται στο παράθυρο και έξω βρέχει.",
    "貓睡在窗臺上，外面正在下雨。圖書館每天早上九點開門，週末則推遲一個小時；鸚鵡與烏龜並列於鑿壁之側。",
    "החתול ישן על אדן החלון ובחוץ יורד גשם. הספרייה נפתחת בכל בוקר בשעה תשע, ובסוף השבוע שעה מאוחר יותר.",
    "बिल्ली खिड़की पर सो रही है और बाहर बारिश हो रही है। แมวนอนหลับอยู่บนขอบหน้าต่างและข้างนอกฝนกำลังตก",
    "🚀🔥 ok 👍🏽 🇩🇪 😀😂 ✅ ⚠️ ∑ αᵢ² ≤ ∫ e⁻ˣ dx → 0 ≈ 3.14",
)


@dataclass(frozen=True)
class Limits:
    """How long a text may be: `max_tokens` as the program counts, everything else in our own, counted tokens.

    `counted` is the most of any text, `passage` the most of a passage, both with prompt and special tokens; `overlap`
    is the most that neighbouring passages share. One counted token is up to `ratio` real ones.
    """

    max_tokens: int
    ratio: float
    counted: int
    passage: int
    overlap: int


def limits_for(max_tokens: int, ratio: float, overhead: int, passages: PassageSettings, asked: int) -> Limits:
    """What follows from the program reading `max_tokens`, where `asked` were hoped for.

    `overhead` counts what prompt and special tokens add to each text.

    Raises:
        SettingsError: the passages asked for don't suit the model.
        RemoteEncoderRefused: it reads too little for any passage.
    """
    if passages.max_tokens > asked:
        raise SettingsError(
            f"passages.max_tokens is {passages.max_tokens}, but the model reads {asked} tokens. "
            f"Set it to {asked} or less, or to 0 for as long as the model can read."
        )
    counted = math.floor(max_tokens / ratio)
    passage = math.floor(min(passages.max_tokens or max_tokens, max_tokens) / ratio)
    room = passage - overhead
    overlap = math.ceil(passages.overlap_tokens / ratio)
    if room < MIN_TEXT_TOKENS:
        told = f"{min(passages.max_tokens or max_tokens, max_tokens)} tokens, at least {math.ceil(overhead * ratio)}"
        if passages.max_tokens and passages.max_tokens <= max_tokens:
            raise SettingsError(f"passages.max_tokens is {told} of them for the prompt. Raise it.")
        raise RemoteEncoderRefused(
            f"the model reads {told} of them for the prompt",
            hint="Raise the context length that the program at encoder.url gives it, or set shorter prompts.",
        )
    return Limits(max_tokens, ratio, counted, passage, min(overlap, room // 2))


def stand_in_counter(prompts: Mapping[Role, str]) -> TokenCounter:
    """Counts with the stand-in; two special tokens are added to every text."""
    return TokenCounter(stand_in_tokenizer(), prompts)


def stand_in_tokenizer() -> Tokenizer:
    """The tokenizer that counts; its tokens mean nothing else. Offsets are those of the original text."""
    tokenizer = Tokenizer.from_file(str(find_bundled().path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    steps = [normalizers.Replace(Regex(pattern), f" {MARK}" * n + " ") for pattern, n in TIMES]
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(WORD_OR_SIGN), "isolated")]
    )
    return tokenizer
