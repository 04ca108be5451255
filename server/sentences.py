"""Sentences of stored texts, which are asked as questions to see whether their documents are found."""

import re

SENTENCE_END = re.compile(r"[.!?。！？](?=\s)|\n\s*\n")
MIN_WORDS = 4  # of a question; fewer fit too many passages
