"""How people say that something is the answer, in some 35 languages. Only words; `answers.py` uses them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

_EN = (
    r"(?:(?:is|are|was|were|equals|(?:should|must|has\ to|would|will|can\ only|seems\ to|appears\ to)\ be|seems|appears"
    r"|comes?\ (?:out\ )?(?:to|as)"
    r"|turns\ out\ to\ be|becomes)(?![\w'’])|['’]s\b|=|:|-?->|→|⇒)"
    r"(?:\s{1,3}(?:therefore|thus|then|simply|clearly|just|hence|so|indeed|definitely|obviously|also|now|still|actually"
    r"|equal\ to|given\ by|precisely|exactly|obtained\ as|found\ to\ be),?(?=[\s:]))?\s?[:=]?"
)
# code: (a piece that every phrase contains, what an answer is called, what joins it with its value, decimal comma)
_ANSWER: dict[str, tuple[str, str, str, bool]] = {
    "en": ("answer", r"\banswers?(?:\ (?:to|of|for)\ (?:the|this|that|your)[^\n.:=?]{0,60}?)?", _EN, False),
    "en2": ("ans", r"(?:^|[\s*])(?:ans|Ans)\b\.?", r"[:=.]", False),
    "zh": ("答", r"(?:答案|答)", r"(?:应该|應該|应|應)?(?:为|為|是|等于|等於|選|选|：|:|＝|=)", False),
    "zh2": ("选", r"(?:选择|應選|应选|故选|选)", r"(?:：|:|为)?(?=\s?[(（]?[A-Z])", False),
    "ja": ("答", r"(?:答え|答|解答|回答)", r"(?:は|が|：|:|＝|=)", False),
    "ja2": ("正解", r"正解", r"(?:は|が|：|:|＝|=)", False),
    "ko": ("답", r"(?:정답|답변|해답|답)", r"\s?(?:은|는|이|:|：|=)", False),
    "th": ("ตอบ", r"(?:คำตอบ|ตอบ)(?:สุดท้าย|ที่ถูกต้อง|ที่ถูก)?", r"\s?(?:คือ|เท่ากับ|:|=|\ )", False),
    "hi": ("उत्तर", r"उत्तर", r"\s?(?:है|:|=|-|—|\ )", False),
    "hi2": ("जवाब", r"जवाब", r"\s?(?:है|:|=|-|—|\ )", False),
    "bn": ("উত্তর", r"উত্তর(?:টি|টা)?", r"\s?(?:হলো|হল|হচ্ছে|হবে|:|=|-|—|\ )", False),
    "ta": ("விடை", r"விடை", r"\s?(?::|=|\ )", False),
    "ta2": ("பதில்", r"பதில்", r"\s?(?::|=|\ )", False),
    "te": ("సమాధానం", r"సమాధానం", r"\s?(?::|=|\ )", False),
    "gu": ("જવાબ", r"જવાબ", r"\s?(?:છે|:|=|\ )", False),
    "ur": ("جواب", r"جواب(?:\s(?:نهایی|درست|صحیح|نہائی))?", r"\s?(?:ہے|یہ\ ہے|برابر(?:\ با)?|:|=|\ )", False),
    "fa": ("پاسخ", r"پاسخ(?:\s(?:نهایی|درست|صحیح))?", r"\s?(?:برابر(?:\ با)?|:|=|\ )", False),
    "ar": ("جا", r"(?:الإجابة|الاجابة|إجابة)(?:\s(?:النهائية|الصحيحة))?", r"\s?(?:هي|هو|تساوي|:|=)", False),
    "ar2": ("الجواب", r"الجواب(?:\s(?:النهائي|الصحيح))?", r"\s?(?:هو|هي|يساوي|:|=)", False),
    "he": ("תשוב", r"(?:התשובה|תשובה)(?:\s(?:הסופית|הנכונה|סופית|נכונה))?", r"\s?(?:היא|הוא|:|=)", False),
    "sw": ("jibu", r"\bjibu(?:\s(?:sahihi|la\ mwisho))?", r"\s?(?:ni\b|:|=)", False),
    "tl": ("sagot", r"\bsagot", r"\s?(?:ay\b|:|=)", False),
    "de": ("antwort", r"\b(?:end|lösungs)?antwort", r"\s?(?:ist|lautet|beträgt|wäre|heißt|:|=)", True),
    "fr": ("réponse", r"\bréponse(?:\s(?:finale|correcte|exacte))?", r"\s?(?:est|vaut|serait|:|=)", True),
    "es": ("respuesta", r"\brespuesta(?:\s(?:final|correcta))?", r"\s?(?:es|sería|:|=)", True),
    "pt": ("resposta", r"\bresposta(?:\s(?:final|correta|certa|correcta))?", r"\s?(?:é|és|seria|:|=)", True),
    "it": ("risposta", r"\brisposta(?:\s(?:finale|corretta|giusta|esatta))?", r"\s?(?:è|sarebbe|:|=)", True),
    "ro": ("răspuns", r"\brăspunsul?(?:\s(?:final|corect))?", r"\s?(?:este|e\b|:|=)", True),
    "nl": ("antwoord", r"\b(?:eind)?antwoord", r"\s?(?:is|luidt|:|=)", True),
    "sv": ("svar", r"\bsvaret?", r"\s?(?:är|er|blir|bliver|:|=)", True),
    "fi": ("vastaus", r"\bvastaus", r"\s?(?:on\b|:|=)", True),
    "pl": ("odpowied", r"\bodpowiedź", r"\s?(?:to\b|jest|brzmi|wynosi|:|=)", True),
    "cs": ("odpov", r"\b(?:odpověď|odpoveď|odgovor)", r"\s?(?:je\b|zní|znie|:|=)", True),
    "hu": ("válasz", r"\b(?:válasz|végeredmény)", r"\s?(?:az?\s|:|=)?\s?:?", True),
    "tr": ("cevap", r"\bcevap", r"\s?(?:şudur|:|=|\ )", True),
    "tr2": ("yanıt", r"\byanıt", r"\s?(?:şudur|:|=|\ )", True),
    "ru": ("ответ", r"\bответ(?:ом)?", r"\s?(?:равен|это|есть|является|будет|:|=|—|–|-)", True),
    "uk": ("відповід", r"\bвідповідь", r"\s?(?:це|є|:|=|—|–|-)", True),
    "bg": ("отговор", r"\bотговор(?:ът)?", r"\s?(?:е\b|:|=|—|–|-)", True),
    "el": ("απάντηση", r"απάντηση", r"\s?(?:είναι|:|=)", True),
    "vi": ("đáp", r"\bđáp\s(?:án|số)(?:\s(?:cuối\ cùng|đúng|chính\ xác))?", r"\s?(?:là|bằng|:|=|\ )", True),
    "vi2": ("trả lời", r"\btrả\slời(?:\s(?:cuối\ cùng|đúng))?", r"\s?(?:là|bằng|:|=)", True),
    "id": ("jawa", r"\bjawa[bp]an(?:nya)?(?:\s(?:akhir|yang\ benar))?", r"\s?(?:adalah|ialah|yaitu|:|=)", True),
}  # fmt: skip
_RESULT: dict[str, tuple[str, str, str, bool]] = {  # counts only where nothing is called the answer
    "en": ("final", r"\bfinal\ (?:result|solution|value)", _EN, False),
    "en2": ("result", r"\b(?:the|our|my)\ (?:result|solution)", _EN, False),
    "zh": ("结果", r"结果", r"(?:为|是|等于|：|:|=)", False),
    "ja": ("結果", r"結果", r"(?:為|是|は|：|:|=)", False),
    "ko": ("결과", r"결과", r"\s?(?:는|:|=)", False),
    "ar": ("النات", r"الناتج", r"\s?(?:هو|يساوي|:|=)", False),
    "de": ("ergebnis", r"\b(?:end)?ergebnis", r"\s?(?:ist|lautet|beträgt|:|=)", True),
    "de2": ("lösung", r"\blösung", r"\s?(?:ist|lautet|:|=)", True),
    "fr": ("résultat", r"\brésultat(?:\sfinal)?", r"\s?(?:est|vaut|:|=)", True),
    "es": ("resultado", r"\bresultado(?:\sfinal)?", r"\s?(?:es|é|:|=)", True),
    "es2": ("soluci", r"\bsolución", r"\s?(?:es|:|=)", True),
    "it": ("risultato", r"\brisultato(?:\sfinale)?", r"\s?(?:è|:|=)", True),
    "nl": ("resultaa", r"\bresultaat", r"\s?(?:is|:|=)", True),
    "sv": ("resultat", r"\bresultatet", r"\s?(?:är|er|blir|:|=)", True),
    "pl": ("wynik", r"\bwynik", r"\s?(?:to\b|jest|wynosi|:|=)", True),
    "cs": ("výsled", r"\bvýsled(?:ek|ok)", r"\s?(?:je\b|:|=)", True),
    "tr": ("sonuç", r"\bsonuç", r"\s?(?:olarak)?\s?(?::|=|\ )", True),
    "ru": ("результат", r"\bрезультат", r"\s?(?:равен|это|:|=|—|–|-)", True),
    "ru2": ("итог", r"\bитого?\b", r"\s?(?::|=|—|–|-)", True),
    "el": ("αποτέλεσμα", r"αποτέλεσμα", r"\s?(?:είναι|:|=)", True),
    "vi": ("kết quả", r"\bkết\squả", r"\s?(?:là|bằng|:|=)", True),
    "id": ("hasil", r"\bhasil(?:nya)?", r"\s?(?:adalah|ialah|:|=)", True),
}  # fmt: skip
_THUS = (
    r"(?:\s(?:also|daher|somit|demnach|folglich|donc|égale\ à|entonces|igual\ a|então|portanto|quindi|dunque|dus|daarom"
    r"|to|więc|это))?\s?:?"
)
_MARKS = r"[ \t*_\"'“”«»„`]{0,6}"
_HEADER = re.compile(
    r"^[ \t#*_]{0,8}(?:final |correct )?(?:answer|antwort|respuesta final|réponse finale"
    r"|answer \(final\))[ \t*_:]{0,8}$",
    re.IGNORECASE | re.MULTILINE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|suppose|assume|assuming|unless|wenn|falls|ob|si|se|если)\b[\w ]{0,20}$", re.IGNORECASE
)
_DENIED = re.compile(
    r"(?:(?:n['’]t|\bnot|\bnever|\bno)\s(?:\w+\s){0,4}|\b(?:wrong|incorrect|false|another|falsche|falsch|mauvaise|incorrecta|incorreta"
    r"|sbagliata|неверный|неправильный|другой)\s|错误(?:的)?|間違った|틀린\s)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Phrase:
    """Words that call something the answer, which starts at `end`; `comma`: the language has a decimal comma.

    denied: what stands before the words takes the statement away ("I do not think that the answer is").
    """

    start: int
    end: int
    comma: bool
    denied: bool = False


def stated_phrases(text: str) -> list[Phrase]:
    """All places where something is called the answer, in order; where there is none, the result. Not after an `if`."""
    lowered = text.lower()
    for group in ("answer", "result"):
        found = sorted(_phrases(text, lowered, group), key=lambda phrase: (phrase.end, -phrase.start))
        if found:
            return found
    return []


def _phrases(text: str, lowered: str, group: str) -> Iterator[Phrase]:
    for code, (piece, *_, comma) in (_ANSWER if group == "answer" else _RESULT).items():
        if piece in lowered:
            for found in _pattern(group, code).finditer(text):
                if not _SUPPOSED.search(text, max(0, found.start() - 40), found.start()):
                    denied = _DENIED.search(text, max(0, found.start() - 60), found.start()) is not None
                    yield Phrase(found.start(), found.end(), comma, denied)
    if group == "answer" and (
        "answer" in lowered or "antwort" in lowered or "respuesta" in lowered or "réponse" in lowered
    ):
        yield from (Phrase(found.start(), found.end(), False) for found in _HEADER.finditer(text))


@cache
def _pattern(group: str, code: str) -> re.Pattern[str]:
    _, called, joined, _ = (_ANSWER if group == "answer" else _RESULT)[code]
    return re.compile(rf"(?:{called}){_MARKS}(?:{joined}){_THUS}", re.IGNORECASE | re.MULTILINE)
