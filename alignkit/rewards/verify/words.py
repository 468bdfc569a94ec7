"""Words around a value, in the languages of `phrases.py`: what joins two, what changes one, what denies it."""

from __future__ import annotations

import re
from collections.abc import Iterable


def words(text: str) -> list[str]:
    """The words of a list that is written as a text; `_` stands for a space within one."""
    return [word.replace("_", " ") for word in text.split()]


def any_of(choices: Iterable[str]) -> str:
    """A regular expression for any of them, the longest first."""
    return "(?:" + "|".join(map(re.escape, sorted(choices, key=len, reverse=True))) + ")"


AND = words(
    """
    and und et y e i и і та och og en ja ve και dan 과 و और এবং 和 与 與 と 및 และ và 와
    """
)
OR = words(
    """
    or oder ou o u или або eller lub nebo tai veya ή atau hoặc أو یا या বা 或 或者 或是 か または あるいは 또는 혹은 หรือ
    vel vagy ali ili או
    """
)
BEFORE_NUMBERS = words(
    """
    of to bis à a do til до o u y e i и de
    """
)
"""These join or bound numbers only in front of one: `12 to 13`, but `12 a day`."""
_SCALES = {
    100: "hundred hundert cento cien",
    10**3: "thousand tausend thousands тысяча тысячи тысяч тыс duizend tusen ribu nghìn हज़ार हजार হাজার ألف "
        "آلاف 千 천 พัน",
    10**4: "万 萬 만 หมื่น",
    10**5: "lakh lakhs लाख লাখ লক্ষ แสน",
    10**6: "million millions millionen millones milhões milioni miljoen miljoner milion miliony milionů milyon "
        "миллион миллиона миллионов млн juta triệu मिलियन মিলিয়ন مليون ล้าน 百万",
    10**7: "crore crores करोड़ কোটি",
    10**8: "亿 億 억",
    10**9: "billion billions milliarde milliarden milliard milliards миллиард миллиарда миллиардов млрд miljard "
        "milyar tỷ مليار 十亿",
    10**12: "trillion trillions триллион 兆 조",
    12: "dozen dozens dutzend douzaine docena",
}  # fmt: skip
SCALES = {word: factor for factor, group in _SCALES.items() for word in words(group)}
PERCENT = words(
    """
    pct percent percentage persen procent procenti prosent prosenttia prozent yüzde процент процента процентов
    प्रतिशत फीसदी শতাংশ パーセント 퍼센트
    """
)
UNITS = words(
    """
    Hz J K L N V W am cent centimeter centimeters centimetre centimetres cents cm cubic day days deg degree
    degrees dm dollar dollars eur euro euros feet foot ft g gram grams h hour hours hr in inch inches kJ kW kg
    kilogram kilograms kilometer kilometers kilometre kilometres km kmh l lb liter liters litre litres m mL meter
    meters metre metres mg mi mile miles min minute minutes ml mm month months mph ms ounce ounces oz per pm pound
    pounds radian radians s sec second seconds sq square usd week weeks yard yards yd year years
    """
)
"""Beside those of `quantities.py`: words that belong to a value and are kept with it."""
CHANGED = words(
    """
    base chia choose cubed dibagi divided dividido diviso divisé durch eighth eighths elevado exponent factorial
    falsch false faux fewer fifth fifths fois gedeeld greater gross gånger half halves hoch hundredth hundredths
    incorrect incorrecto ish isn't isnt kali keer krát less lần mais mal meno menos minus mod modulo moins more
    multiplied más nhân over per più plus por power powers puissance quadrat quarter quarters raised razy root
    roots scores sixth smaller squared tenth tenths than third thirds thousandth thousandths times từ veces vezes
    volte wrong больше делить меньше минус неверно неправильно плюс раз умножить ถึง の より 乘 乘以 以上 以下 倍
    减 分の 分之 加 減 除以 배 보다 이상 이하
    """
)
"""Right behind a number, these make another value of it."""
CHANGED_START = words(
    """
    倍 以上 以下 より 乘 除以 加 减 減 分之 分の 배 이상 이하
    """
)
"""The same in languages without spaces: a word may begin with them."""
OR_START = words(
    """
    または あるいは 或者 或 또는 혹은 หรือ และ 和
    """
)
NOT = words(
    """
    not never neither n't n’t no_longer anything_but other_than different_from less_than more_than greater_than
    at_least at_most between either unknown nicht kein niemals weder pas ne n'est n’est no não nao non niet geen
    ikke inte ei nie není nem nu не ни δεν değil không bukan tidak नहीं না 不 非 ไม่ אינ לא ليس ليست لا
    """
)
"""At the beginning of a statement: it says what the answer is not, or bounds it."""
NOT_LATER = words(
    """
    ではな ではあり じゃな 아닙 아니 नहीं değil নয় نیست نہیں ليس ist_falsch ist_nicht is_wrong is_incorrect is_not_right
    is_not_correct isn't_right isn't_correct 不对 不對 不正确 неверно неправильно est_faux es_incorrect es_falso
    """
)
"""Behind a value: it is denied."""
OPENING = words(
    """
    approximately approx approx. about roughly around nearly exactly precisely simply just only clearly a_total_of
    equal_to given_by therefore thus indeed now then so the_number the_value etwa ungefähr genau environ
    exactement donc aproximadamente exactamente cerca_de circa esattamente примерно около ровно число ちょうど ≈ ~ ∼ ≃
    \\approx \\sim
    """
)
"""In front of a number, these leave it what it is."""
OPENING_START = words(
    """
    约为 大约 约 約 약
    """
)
MINUS = words(
    """
    minus negative moins menos meno минус мінус eksi マイナス 마이너스 负 負
    """
)
BECAUSE = words(
    """
    because since as for so weil denn da car puisque porque pues perché poiché потому так поскольку omdat want
    """
)
"""What follows is a reason, whose numbers are no answers."""
BECAUSE_START = words(
    """
    因为 因為 なぜなら 왜냐하면 لأن क्योंकि কারণ เพราะ
    """
)
MAYBE = words(
    """
    maybe perhaps vielleicht peut-être quizás может_быть
    """
)
FUNCTIONS = words(
    """
    alpha arccos arccosh arcosh arcsin arcsinh arctan arctanh arsinh artanh beta cis cos cosh cot csc csch deg
    delta det epsilon exp gamma gcd infinity infty lambda lcm ln log max min mu omega phi pi psi rho sec sech
    sigma sin sinh sqrt tan tanh tau theta
    """
)
NOT_THIS = words(
    """
    not cannot never no or nor than least most between except without unlike instead_of rather_than either maybe
    perhaps possibly about_to nicht kein oder pas ou sauf não niet не или кроме
    step page line question problem part case section chapter equation eq. figure fig. table exercise example option
    method no. item schritt seite aufgabe étape paso página шаг
    """
)
"""In front of a number, these deny it, leave it open, or make it the name of a place."""
