"""The English of requests: how one begins, whom it is about, and how it may end. A space stands for any white space.

Each pattern is matched from where a clause begins, and nothing may stand between its parts that is not named here.
"""

import re
from functools import cache

ANSWERS = "response|answer|reply|output|completion"
WORKS = (
    "essay|story|poem|letter|cover letter|e-?mail|article|blog ?post|post|summary|speech|song|lyrics|rap|review|report"
    "|description|dialogue|joke|riddle|limerick|resume|proposal|advertisement|ad|tweet|itinerary|outline|explanation"
    "|critique|pitch|note|announcement|press release|biography|fable|monologue|paragraph|text|message|piece|critique"
    "|brochure|guide|ballad|haiku|sonnet|journal entry|entry|caption|slogan|tutorial|newsletter|narrative"
)
_ALL = r"(?:entire|whole|full|complete|final|overall|actual)"
NOUN = rf"(?:{ANSWERS}|{WORKS})s?"
SUBJECT = (
    rf"(?:the {_ALL} thing|all of (?:it|your {NOUN})|everything(?: that)?(?: you write)?|it"
    rf"|(?:your|the|this)(?: {_ALL})* {NOUN}|(?:{_ALL} )+{NOUN})"
)
"""The answer."""
MODAL = r"(?:must|should|shall|has to|have to|needs to|need to|is to|are to|ought to)"
END = r"(?=\s*(?:[.!?,;:()\[]|$|- |(?:and|but|while|then|so|with|using|plus|yet|like|such)\b))"
"""What follows a wish is another one, or nothing."""
WITHIN = (
    r"(?: (?:at all|whatsoever|anywhere|altogether|total|overall|long|please|in length"
    rf"|(?:in|within|throughout|across|for) (?:{SUBJECT}|any part of (?:it|your {NOUN})|what you write|total"
    rf"|all|english)))*"
)
"""It is about the whole answer."""
QUOTE = r"(?:\"\0+[.,!?;:]?\"|'\0+')"
_LEAD = (
    r"(?:(?:and|also|then|but|finally|lastly|additionally|furthermore|moreover|in addition|note that|note"
    r"|remember|important"
    r"|again|just|only|please|kindly)[,:]? )*"
    r"(?:(?:make sure|be sure|ensure|remember|see to it|please ensure)(?: that| to)? |i(?: would|'d)? (?:want|need"
    r"|like) you to "
    r"|you (?:must|should|have to|need to|are to|shall) (?:also |only )?"
    r"|(?:can|could|would|will) you (?:please |also )?)?(?:please )?(?:explicitly )?"
)


@cache
def compiled(phrase: str) -> re.Pattern[str]:
    """Compile a phrase when the first prompt is read: together they take a second, which commands can do without."""
    return re.compile(phrase.replace(" ?", r"\s*").replace(" ", r"\s+"), re.IGNORECASE)


def wish(phrase: str) -> str:
    """A phrase with what may come before it."""
    return _LEAD + phrase
