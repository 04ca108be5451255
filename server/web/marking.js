// Which words of a passage are those of the question.

// Words that say nothing about what somebody looks for; they count only where there are no others.
const SMALL = new Set((
  "a all an and any are as at be been but by can do does for from had has have how i if in into is it its me my no not " +
  "of on or our so some such than that the their them then there these they this to up was we were what when where " +
  "which who why will with would you your"
).split(" "));

const WORD = /[\p{L}\p{N}\p{M}]+/gu;
const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}]/u;
const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;

/** The stems of a question's words: a Set. */
export function stemsOf(question) {
  const words = [...wordsIn(question)].map(({ word }) => word.toLowerCase());
  const telling = words.filter((word) => !SMALL.has(word));
  return new Set((telling.length ? telling : words).map(stem));
}

/** Where words with one of these stems stand in a text: [start, end) of each. */
export function placesOf(stems, text) {
  const places = [];
  if (!stems.size) return places;
  for (const { word, index } of wordsIn(text)) {
    if (stems.has(stem(word.toLowerCase()))) places.push([index, index + word.length]);
  }
  return places;
}

/** Capitals, accents and English endings don't count: "Sleeping" and "sleeps" are one. */
export function stem(word) {
  const plain = word.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
  if (plain.length < 4 || !/^[a-z]+$/.test(plain)) return plain;
  const bare = plain
    .replace(/(?:ies|ied)$/, "y")
    .replace(/(?<=[a-z]{3})(?:ings?|ed|es|s|ly|ers?)$/, "")
    .replace(/([b-df-hj-np-tv-z])\1$/, "$1");
  return bare.length > 3 ? bare.replace(/e$/, "") : bare;
}

function* wordsIn(text) {
  if (segmenter && UNSPACED.test(text)) {
    for (const { segment, index, isWordLike } of segmenter.segment(text)) {
      if (isWordLike) yield { word: segment, index };
    }
  } else {
    for (const match of text.matchAll(WORD)) yield { word: match[0], index: match.index };
  }
}
