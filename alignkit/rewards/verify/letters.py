"""Which letter of a multiple-choice question a text picks, in the ways and languages in which models say it.

A letter counts where it is called the answer or stands alone, never because it occurs. Linear time.
"""

from __future__ import annotations

import re
import unicodedata

from alignkit.rewards.verify.answers import TAKEN_BACK, boxes_of
from alignkit.rewards.verify.phrases import stated_phrases

_LOOKALIKES = str.maketrans("АВСЕНІЈКМОРТХЅаеоісрхАΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABCEHIJKMOPTXSaeoicpxAABEZHIKMNOPTYX")
_OTHER_ORDER = re.compile(r"(?<!\w)[БГДЖбгд](?!\w)")
_OPTION = (
    r"(?:the|option|options|choice|letter|answer|number|candidate|statement|die|der|das|buchstabe|antwort"
    r"|auswahl|la|el|le|l['’]|lettre|opción|opcion|opção|letra|"
    r"alternativa|alternative|lettera|opzione|réponse|respuesta|resposta|risposta|optie|alternativ|odpowiedź"
    r"|opcja|litera|možnost|вариант(?:\sответа)?|варіант|буква|"
    r"под буквой|ответ|şık|seçenek|seçeneği|đáp án|phương án|lựa chọn|pilihan|opsi|huruf|विकल्प|বিকল্প|الخيار"
    r"|الحرف|گزینه|اختيار|ข้อ|ตัวเลือก|选项|選項|选|選|選択肢|보기|选择|"
    r"번|therefore|thus|then|clearly|definitely|simply|indeed|likely|probably|most likely|just|only)"
)
_WRAP = r"[\s*_\"'`“”‘’«»「」『』【】()\[\]{}<>$:：.\-–]|\\[(\[]|\\(?:text|mathrm|textbf|mathbf|boxed)\s?\{"
_BEFORE = rf"(?:(?:{_WRAP})|(?<!\w){_OPTION}(?!\w)|(?:选项|選項|选|選|選択肢|보기|ข้อ|ตัวเลือก|答案|是|为)){{0,8}}?"
_PARTICLE = r"['’](?:d[ıiuü]r|t[ıiuü]r)\b|[^\x00-\x7f]"
_LETTER = rf"(?<![A-Za-z0-9])(?P<letter>[A-Za-z])(?!\+\+|#)(?:(?={_PARTICLE})|(?!\w|['’]\w))"
_REASONS = (
    r"because|since|as|for|due|given|which|is|was|and\b(?!\s*[(*\"'`]{0,3}[A-Za-z]\b)|with|so|therefore|but|not"
    r"|though|weil|denn|parce|puisque|porque|perché|потому|так|omdat|"
    r"correct|right|indeed|too|here|from|by|in|on|that|where|while|instead|rather|according|option"
)
_WORDS_AFTER = rf"\s+(?!(?:{_REASONS})\b)[A-Za-z]"
_NOT = re.compile(
    r"(?:\b(?:not|never|isn['’]?t|wasn['’]?t|aren['’]?t|can['’]?t be|cannot be|nor|neither|unlike|except|without"
    r"|excludes?|rules? out|eliminates?|rather than|instead of|nicht|kein|"
    r"pas|no es|não|non|niet|ikke|inte|nie|не|değil|bukan|không phải|if|whether|than|over|versus|vs\.?)|n['’]t"
    r"|不是|不选|ではなく|नहीं|ليس|ไม่ใช่)"
    r"[\s*_\"'`(\[]*(?:(?:the|be|option|choice|answer|letter|die|la|le)\s+){0,3}[\s*_\"'`(\[]*$",
    re.IGNORECASE,
)
_WRONG_AFTER = re.compile(
    r"[\s*_\"'`)\]}]*(?:(?:is|was|are|seems|looks|would be|ist|est|es|é|è|это)\s+(?:also\s+|clearly\s+"
    r"|definitely\s+)?(?:not\b|nicht\b|pas\b|a (?:common )?distractor|"
    r"too (?:small|large|big)|_WRONG)|[:,]?\s*(?:n['’]est pas|no es|não é|non è|isn['’]?t|wasn['’]?t|cannot"
    r"|can['’]?t|_WRONG)|[^\x00-\x7f]{0,3}\s?(?:では(?:な|あり)|じゃな|아니|아닙|नहीं)|"
    r"['’]?\s?(?:değil|bukan|ไม่ใช่|ผิด|不对|不對|错|錯))".replace(
        "_WRONG", "(?:wrong|incorrect|false|falsch|faux|incorrecte?o?|falso|неверн|неправильн)"
    ),
    re.IGNORECASE,
)
_CORRECTED = re.compile(
    r"(?:\bnot|n['’]t|\bnicht|\bpas|\bno es|不是|\bне)\s*(?:the |option |la "
    r"|die )?[*(\"'`]{0,3}[A-Za-z][*)\"'`]{0,3},?\s*(?:but|sondern|mais|sino|而是|а)\s*(?:rather\s|is\s|instead\s)?"
    r"(?:the |option |la |die )?[*(\"'`]{0,3}(?P<letter>[A-Z])(?![\w'’])"
)
_SECOND = re.compile(
    rf"[\s*_\"'`)\].:}}]*(?:,|/|&|\+|;|、|，|(?<!\w)(?:or|and|oder|und|ou|et|o|y|e|или|и|veya|ve|atau|dan|hoặc"
    rf"|hay)(?!\w)|或|和|か|と|또는|과|와|या|और|أو|و)+"
    rf"[\s*_\"'`(\[,]*(?:or\s|and\s|possibly\s|maybe\s|perhaps\s|option\s|choice\s"
    rf"|even\s){{0,2}}[\s*_\"'`(\[]*(?P<letter>[A-Za-z])(?![\w'’])(?!{_WORDS_AFTER})",
    re.IGNORECASE,
)
_ALONE = re.compile(
    rf"\s*(?:{_WRAP}){{0,8}}?(?:(?i:option|choice|letter"
    rf"|answer)\s+(?:{_WRAP}){{0,4}}?)?(?P<letter>[A-Za-z])(?P<after>(?:[\s*_\"'`)\]}}.:,;!$。]*$)"
    rf"|[.):\]](?=[\s*]|$)|\*\*|,\s|\s(?:{_REASONS})\b|\s[-–—]\s|\n)"
)
_CHOSEN = re.compile(
    rf"(?<!\w)(?:(?:i['’]?(?:d|ll|\swould|\swill)?\s(?:\w+\s)?(?:choose|pick|select|say|go\swith|answer|opt\sfor"
    rf"|vote\sfor)|(?:must|should|has\sto|would|will)\sbe|"
    rf"(?:correct|right|best)\s(?:option|choice|letter|one|statement|alternative)\s(?:is|would\sbe|must\sbe"
    rf"|should\sbe|:)|correct\s?:|(?:my|final)\s(?:choice|pick|selection)\s?(?:is|:)|"
    rf"(?:richtig|korrekt)\s(?:ist|wäre)|(?:opción|opcion|opção|option|opzione)\s(?:correcta|correta|correcte"
    rf"|corretta)\s(?:es|é|est|è|:)|"
    rf"(?:therefore|thus|hence|so|final|conclusion|actually)[,:]?\s(?:it['’]s\s|it\sis\s|it\smust\sbe\s)?"
    rf"|(?:правильный|верный)\sвариант\s?(?:—|-|:|это))|正确选项(?:是|为|：|:)|正解(?:は|：)|故选|应选|选择?)"
    rf"{_BEFORE}{_LETTER}",
    re.IGNORECASE,
)
_CALLED = re.compile(
    r"(?<![A-Za-z0-9'’])(?<!amin )(?<!titis )(?<!type )(?<!group )(?<!step )(?<!part )(?<!case )(?<!figure )"
    r"(?:(?i:option|choice|letter|answer|opción|opção|opzione|вариант|die antwort|antwort|la respuesta"
    r"|la réponse)\s+)?[\s*_\"'`(\[]{0,4}(?P<letter>[A-Z])[\s*_\"'`)\]]{0,4}\s?"
    r"(?i:(?:is|must\sbe|would\sbe|should\sbe|ist|est|es|é|è|это|—|是|が|は)\s?(?:therefore\s|clearly\s|indeed\s"
    r"|thus\s|definitely\s)?(?:the\s|die\s|la\s|el\s|a\s|le\s)?"
    r"(?:(?:only|most|one|single)\s)?(?:correct|right|best|accurate|true|answer|richtig|bonne|correcta|correto"
    r"|correta|corretta|exacte|правильн|верн|正确|正解)|が正解|は正解|正确)"
)
_BRACKETED = re.compile(r"[(\[<](?P<letter>[A-Za-z])[)\]>]")


def picked_letter(text: str, letters: str) -> str | None:
    """The one of `letters` that the text picks; None when it picks none, several, or one that is not among them.

    In this order: what stands in a box; the last statement of an answer; a text that is or starts with the letter
    alone; a letter that is called right or chosen; the only letter in brackets that is not ruled out.
    """
    text = plain_letters(text, letters)
    boxed = _boxed(text, letters)
    if boxed is not None:
        return boxed or None
    for read in (_stated, _chosen, _starting, _bracketed):
        found = read(text, letters)
        if found is not None:
            return found or None
    return None


def plain_letters(text: str, letters: str) -> str:
    """With full-width, circled and bold letters as plain ones, and those of other alphabets that look the same.

    Not where other letters show that the options are counted in that alphabet (А, Б, В), or `letters` has them.
    """
    text = unicodedata.normalize("NFKC", text)
    if _OTHER_ORDER.search(text) or not letters.isascii():
        return text
    return re.sub(r"(?<![^\W\d_])[Ͱ-ӿ](?![^\W\d_])", lambda one: one.group().translate(_LOOKALIKES), text)


def reference_letter(reference: object, letters: str) -> str | None:
    """The letter of a reference: a letter, text that starts with it ("B. aspirin"), or a number counted from 0."""
    if isinstance(reference, float) and reference.is_integer():  # a table with gaps turns whole numbers into floats
        reference = int(reference)
    if isinstance(reference, int) and not isinstance(reference, bool):
        return letters[reference] if 0 <= reference < len(letters) else None
    if not isinstance(reference, str):
        return None
    text = plain_letters(reference, letters)
    boxed = _boxed(text, letters)
    if boxed:
        return boxed
    found = _ALONE.match(text) if letters.isascii() else re.match(r"\W{0,3}(?P<letter>[^\W\d_])(?![^\W\d_])", text)
    return _known(found["letter"], letters) if found else None


def only_letter(text: str, letters: str) -> str | None:
    """The letter that is the only one in a short text."""
    found = {
        match["letter"] for match in re.finditer(r"(?<![\w'’])(?P<letter>[A-Z])(?![\w'’])(?!\s[a-z])", text)
    } & set(letters)
    return found.pop() if len(found) == 1 else None


def _known(letter: str, letters: str) -> str | None:
    return letter if letter in letters else letter.upper() if letter.upper() in letters else None


def _boxed(text: str, letters: str) -> str | None:
    """The letter of the boxes, "" when they differ; None when there is no letter in a box."""
    found = []
    for _, _, content in boxes_of(text):
        inner = re.sub(r"\\(?:text|mathrm|textbf|mathbf|mbox|rm|bf)(?![a-zA-Z])|[{}$]|\\[ ,;()]", " ", content or "")
        match = _ALONE.match(inner.strip() + " ")
        if match and _known(match["letter"], letters) and not _SECOND.match(inner.strip(), match.end("letter")):
            found.append(_known(match["letter"], letters))
        elif match or re.fullmatch(r"[\s()A-Za-z]*(?:,|and|or)[\s()A-Za-z]*", inner.strip()):
            found.append("")
    if not found:
        return None
    return found[-1] if len(set(found)) == 1 else ""


def _stated(text: str, letters: str) -> str | None:
    pattern = re.compile(rf"{_BEFORE}{_LETTER}", re.IGNORECASE)
    for phrase in reversed(stated_phrases(text)):
        if phrase.denied:
            continue
        body = re.sub(r"^\s*[ao]\s(?=letra|alternativa|opção)", "", text[phrase.end : phrase.end + 120])
        correction = re.match(
            r"\s*(?:not\b|n['’]t\b|nicht\b|不是|не\b)[^.\n]{0,30}?(?:,\s*)?(?:\bbut\b|sondern|而是"
            r"|\bа\b)(?:\s(?:rather|is|instead))?",
            body,
            re.IGNORECASE,
        )
        offset = correction.end() if correction else 0
        if not correction and re.match(
            r"\s*(?:not|neither|none|nicht|keine|pas|no|não|不是|не)(?!\w)", body, re.IGNORECASE
        ):
            continue
        found = pattern.match(body, offset)
        if not found or _is_word(found["letter"], body[found.end("letter") :]):
            continue
        back = TAKEN_BACK.search(text, phrase.end, phrase.end + 800)
        if back:
            return _chosen(text[back.start() :], letters) or ""
        return _one(found["letter"], body[found.end("letter") :], letters)
    return None


def _one(letter: str, after: str, letters: str) -> str:
    """The letter, or "" when it is not among the letters, another one follows, or it is called wrong."""
    second = _SECOND.match(after)
    known = _known(letter, letters)
    if second and _known(second["letter"], letters) not in (None, known):
        return ""
    sentence = re.split(r"[.!\n。]", after, maxsplit=1)[0]
    return "" if known is None or _WRONG_AFTER.match(sentence) or re.match(r"[\s*)\"']*[?？]", after) else known


def _is_word(letter: str, after: str) -> bool:
    """The article "a", the pronoun "I" and single small letters in front of words are no picks."""
    if letter in "AI" or letter.islower():
        return bool(re.match(_WORDS_AFTER, after))
    return False


def _starting(text: str, letters: str) -> str | None:
    found = _ALONE.match(text)
    if not found:
        return None
    whole = not text[found.end() :].strip(" \n.*)")
    known = _known(found["letter"], letters)
    if known is None or (not whole and _is_word(found["letter"], text[found.end("letter") :])):
        return None
    listed = re.findall(r"(?:^|\n)\s*[(\[*]{0,3}([A-Za-z])[).:\]]", text)
    bracketed = {match["letter"] for match in _BRACKETED.finditer(text)}
    if len({one.upper() for one in listed}) > 1 or len(bracketed) > 2:  # the options, repeated
        return None
    return _one(found["letter"], text[found.end("letter") :], letters)


def _chosen(text: str, letters: str) -> str | None:
    """The last letter that is called right, or that the writer says to choose."""
    found = []
    for pattern in (_CHOSEN, _CALLED, _CORRECTED):
        for match in pattern.finditer(text):
            before, after = (
                text[max(0, match.start("letter") - 40) : match.start("letter")],
                text[match.end("letter") :][:120],
            )
            wrong = (pattern is not _CORRECTED and _NOT.search(before)) or (
                pattern is _CHOSEN and _is_word(match["letter"], after)
            )
            lowered = match["letter"].islower() and not re.search(r"[(*\"'`\[]$", before)
            if (
                not wrong
                and not (lowered and not re.match(r"[\s)*]*(?:[.!,]|$)", after))
                and _known(match["letter"], letters)
            ):
                picked = (
                    _known(match["letter"], letters)
                    if pattern is not _CHOSEN
                    else _one(match["letter"], after, letters)
                )
                found.append((match.start("letter"), picked))
    return max(found)[1] if found else None


def _bracketed(text: str, letters: str) -> str | None:
    """The only letter in brackets that is not ruled out, in the last sentence that has one."""
    sentences = [one for one in re.split(r"(?<=[.!?])\s|\n", text) if _BRACKETED.search(one)]
    for sentence in reversed(sentences):
        found = set()
        for match in _BRACKETED.finditer(sentence):
            if not _NOT.search(sentence[: match.start()][-40:]) and not _WRONG_AFTER.match(sentence[match.end() :]):
                found.add(_known(match["letter"], letters))
        if found:
            return (found.pop() or "") if len(found) == 1 else ""
    return None
