"""Which language a text is in: by its script, then by letters and small words that are a language's own.

Meant for the question "was the answer given in the language that was asked for", on texts of a sentence or more.
"""

from __future__ import annotations

import re
from collections import Counter

SCRIPTS = {
    "greek": (0x0370, 0x03FF),
    "cyrillic": (0x0400, 0x04FF),
    "hebrew": (0x0590, 0x05FF),
    "arabic": (0x0600, 0x06FF),
    "devanagari": (0x0900, 0x097F),
    "bengali": (0x0980, 0x09FF),
    "gurmukhi": (0x0A00, 0x0A7F),
    "gujarati": (0x0A80, 0x0AFF),
    "tamil": (0x0B80, 0x0BFF),
    "telugu": (0x0C00, 0x0C7F),
    "kannada": (0x0C80, 0x0CFF),
    "malayalam": (0x0D00, 0x0D7F),
    "thai": (0x0E00, 0x0E7F),
    "kana": (0x3040, 0x30FF),
    "han": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7A3),
}
ONE_LANGUAGE = {
    "greek": "el",
    "hebrew": "he",
    "bengali": "bn",
    "gurmukhi": "pa",
    "gujarati": "gu",
    "tamil": "ta",
    "telugu": "te",
    "kannada": "kn",
    "malayalam": "ml",
    "thai": "th",
    "hangul": "ko",
}
OWN_LETTERS = {
    "arabic": {"fa": "پچژگکی", "ur": "ٹڈڑےںھہ", "ar": "ةىكيأإ"},
    "cyrillic": {"ru": "ыэё", "bg": "ъ", "uk": "іїєґ"},
    "latin": {
        "de": "ß",
        "vi": "ạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹđươ",
        "pt": "ãõ",
        "es": "ñ¿¡",
        "pl": "łęąśżź",
    },
}
SMALL_WORDS = {
    "devanagari": {
        "hi": "है हैं में की के और का से को यह नहीं था थी पर लिए ने भी एक कि जो हो हम आप",
        "mr": "आहे आहेत आणि मध्ये हे या होते नाही साठी तो ती ते व एक की मी तुम्ही आम्ही आपण म्हणून पण",
        "ne": "छ छन् र मा हुन्छ पनि यो हो लागि भएको गर्न थियो छैन हामी तपाईं गर्ने एक भने",
    },
    "arabic": {
        "ar": "في من على إلى أن هذا هذه التي الذي كان مع عن لا ما هو هي",
        "fa": "در از به که این است را با برای آن یک می و تا هم شما ما",
        "ur": "ہے ہیں میں کے کی کا اور سے کو یہ نے پر نہیں تھا لیے ایک ہو آپ",
    },
    "cyrillic": {
        "ru": "и в не на что с по это как а но он она было его для из вы мы я",
        "bg": "и в на се да за от е са с като че не по това които си или ще бъде",
        "uk": "і в що не на з як це та є до за він вона для від але ми ви",
    },
    "latin": {
        "en": "the and of to in is that it for was with as on be are this have not you by from or we your my",
        "de": "der die und in das ist nicht zu den mit ein eine sich auf für von dem es ich wir sie auch im des",
        "fr": "le la les et des est une un dans que pour pas qui sur avec ce il je nous vous du au en sont",
        "es": "el la los las y de que en un una es por con para no se su del al como más lo pero este",
        "it": "il la di che e un una per non è con sono del della le i si da come ma questo gli nel anche",
        "pt": "o a os as de que e em um uma é não para com se por do da no na mais como mas seu são",
        "nl": "de het een en van is dat niet op te in voor met zijn aan er ook maar ik je wij naar",
        "sv": "och att det som en på är av för med den till inte har jag ett om vi var",
        "pl": "i w nie na się że z do to jest jak co ale po za od dla są przez",
        "tr": "ve bir bu da de için ile çok ama gibi daha ne var değil olarak olan ben sen",
        "id": "yang dan di untuk dengan ini itu dari tidak ada pada saya adalah dalam ke akan juga kami",
        "fi": "ja on ei että se hän oli mutta ovat kun niin myös tai joka mitä olen minä sinä voi sen tämä",
        "sw": "na ya wa kwa ni katika la za cha kuwa hii yako yangu sana lakini kama hiyo pia huu vya watu",
        "vi": "và của là có không trong cho được với một các này những để người tôi bạn khi đã rất",
    },
}
LETTER_WEIGHT = 0.5


def language(text: str) -> str | None:
    """The ISO 639-1 code of the language that most of the text's letters are in; None without letters to go by.

    Text in Latin letters that shows no sign of another language counts as English.
    """
    letters = Counter(_script(letter) for letter in text if letter.isalpha())
    if letters["kana"]:
        letters["kana"] += letters.pop("han", 0)
    if not letters:
        return None
    script = letters.most_common(1)[0][0]
    if script in ("kana", "han"):
        return "ja" if script == "kana" else "zh"
    return ONE_LANGUAGE.get(script) or _by_words(text.lower(), script)


def _script(letter: str) -> str:
    code = ord(letter)
    if code < 0x0250 or 0x1E00 <= code <= 0x1EFF:
        return "latin"
    return next((name for name, (first, last) in SCRIPTS.items() if first <= code <= last), "other")


def _by_words(text: str, script: str) -> str | None:
    if script not in SMALL_WORDS:
        return None
    words = Counter(re.findall(r"[^\s\d.,;:!?\"“”«»()\[\]*#।-]+", text))
    letters = Counter(text)
    scores = {
        code: sum(words[word] for word in small.split())
        + LETTER_WEIGHT * sum(letters[letter] for letter in OWN_LETTERS.get(script, {}).get(code, ""))
        for code, small in SMALL_WORDS[script].items()
    }
    best = max(scores, key=lambda code: scores[code])
    return best if scores[best] or script != "latin" else "en"
