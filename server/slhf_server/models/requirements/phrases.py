"""The English of requests: how one begins, whom it is about, and how it may end. A space stands for any white space.

Each pattern is matched from where a clause begins, and nothing may stand between its parts that is not named here.
"""

import re

from slhf_server.models.requirements.asked import ANSWERS, WORKS

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


def pattern(text: str, *, anywhere: bool = False) -> re.Pattern[str]:
    return re.compile((text if anywhere else _LEAD + text).replace(" ?", r"\s*").replace(" ", r"\s+"), re.IGNORECASE)
