"""Instructions whose observance a program can check: the 25 kinds of IFEval, written from their descriptions.

Source: Instruction-Following Evaluation for Large Language Models, arXiv 2311.07911. Words, sentences and languages are
told apart by rules of our own, so counts of sentences may differ by one where abbreviations or lists are involved.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alignkit.rewards.verify.languages import language

_SHORT = "mr mrs ms dr prof sr jr st vs etc e.g i.e fig no vol inc ltd co corp dept est approx p.s a.m p.m"
ABBREVIATIONS = frozenset(re.split(" ", _SHORT))
SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)\]*_]*(?=\s|$|(?<=[。！？]))")


class BadInstruction(ValueError):
    """The row names an instruction that does not exist, or gives it values that it cannot take."""


def follows(name: str, values: Mapping[str, Any], response: str) -> bool:
    """Whether a response obeys the instruction `name` (as in `punctuation:no_comma`) with its `values`.

    An empty response obeys nothing. Values that are None count as absent. Raises BadInstruction.
    """
    rule = RULES.get(name)
    if rule is None:
        raise BadInstruction(f"there is no instruction {name!r}")
    given = {key: value for key, value in values.items() if value is not None}
    try:
        bound = inspect.signature(rule).bind(response, **given)
    except TypeError as error:
        raise BadInstruction(f"{name}: {error}") from error
    return bool(response.strip()) and rule(*bound.args, **bound.kwargs)


def loose_forms(response: str) -> Iterator[str]:
    """The response, and without its first line, its last line or both, each also without asterisks."""
    lines = response.split("\n")
    shorter = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    for text in (response, *shorter):
        yield text
        yield text.replace("*", "")


def count_sentences(text: str) -> int:
    """Sentences: what ends in a full stop, question or exclamation mark, and a rest with a word in it."""
    text, count, last = text.rstrip(), 0, 0
    for match in SENTENCE_END.finditer(text):  # none is kept: half a million of them would cost a collection of garbage
        if match.end() == len(text) or not _abbreviates(match):
            count, last = count + 1, match.end()
    return count + bool(re.search(r"\w", text[last:]))


def _abbreviates(match: re.Match[str]) -> bool:
    """Whether the stop belongs to an abbreviation, an initial or the number of a list's item."""
    before = match.string[max(0, match.start() - 20) : match.start()].split(" ")[-1]
    word = before.rpartition("\n")[2].lower().lstrip("(\"'“‘*_[")
    if match.group().rstrip("\"'”’)]*_") != ".":
        return False
    number_of_item = word.isdigit() and f"\n{before}".endswith(f"\n{word}")
    return word in ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "i") or number_of_item


def _compare(count: int, relation: str, wanted: int) -> bool:
    if relation not in ("at least", "less than"):
        raise BadInstruction(f"the relation is {relation!r}; wanted 'at least' or 'less than'")
    return count >= wanted if relation == "at least" else count < wanted


def _keywords(text: str, *, keywords: list[str]) -> bool:
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in keywords)


def _keyword_frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(len(re.findall(re.escape(keyword), text, re.IGNORECASE)), relation, frequency)


def _forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.lower()), let_relation, let_frequency)


def _response_language(text: str, *, language: str) -> bool:
    return _language_of(text) == language


def _number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Paragraphs are set apart by `***`; an empty one is allowed before the first and after the last mark only."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    inner = parts[1:-1]
    return all(inner) and sum(map(bool, parts)) == num_paragraphs


def _number_words(text: str, *, relation: str, num_words: int) -> bool:
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


def _number_sentences(text: str, *, relation: str, num_sentences: int) -> bool:
    return _compare(count_sentences(text), relation, num_sentences)


def _paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are set apart by empty lines. The nth is counted among all, the number among those with text."""
    parts = [part.strip() for part in text.split("\n\n")]
    if sum(map(bool, parts)) != num_paragraphs or not 1 <= nth_paragraph <= len(parts) or not parts[nth_paragraph - 1]:
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _postscript(text: str, *, postscript_marker: str) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(known.get(postscript_marker, re.escape(postscript_marker.lower())), text.lower()) is not None


def _placeholders(text: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", text)) >= num_placeholders


def _bullets(text: str, *, num_bullets: int) -> bool:
    starred, dashed = re.findall(r"^[^\S\n]*\*[^*\n]", text, re.M), re.findall(r"^[^\S\n]*-", text, re.M)
    return len(starred) + len(dashed) == num_bullets


def _constrained(text: str) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def _highlights(text: str, *, num_highlights: int) -> bool:
    """`*...*` and `**...**` with something inside; a bold passage is seen once as each, as in the reference rules."""
    single = [found for found in re.findall(r"\*([^\n*]*)\*", text) if found.strip()]
    double = [found for found in re.findall(r"\*\*([^\n*]*)\*\*", text) if found.strip()]
    return len(single) + len(double) >= num_highlights


def _sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", text)) >= num_sections


def _json(text: str) -> bool:
    inner = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    spans = [(line, line.find("<<"), line.rfind(">>")) for line in text.split("\n")]
    return any(line[start:end].strip("<> \t") for line, start, end in spans if 0 <= start < end)


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    kept = [part for part in parts if part]
    return all(parts[1:-1]) and len(kept) == 2 and kept[0] != kept[1]


def _repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


def _capital_words(text: str, *, capital_relation: str, capital_frequency: int) -> bool:
    words = re.findall(r"[^\W_]+(?:[-'’.&][^\W_]+)*", text)
    return _compare(sum(word.isupper() for word in words), capital_relation, capital_frequency)


def _capital(text: str) -> bool:
    return text.isupper() and _language_of(text) == "en"


def _lowercase(text: str) -> bool:
    return text.islower() and _language_of(text) == "en"


def _no_comma(text: str) -> bool:
    return "," not in text


_language_of = language

RULES: dict[str, Callable[..., bool]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _paragraph_first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capital,
    "change_case:english_lowercase": _lowercase,
    "punctuation:no_comma": _no_comma,
}
"""Instruction id -> (response, **values) -> obeyed."""
