"""Whose fault it is that there is no answer: contract 4 as a table, and the only one. Pure."""

import re
from typing import Final

from aichats_worker.errors import (
    BadResponse,
    ContentFiltered,
    InvalidRequest,
    Misconfigured,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    TooLarge,
    WorkerError,
)

Leaf = type[WorkerError]

_BY_STATUS: Final[dict[int, Leaf]] = {
    **dict.fromkeys((400, 406, 409, 411, 412, 415, 416, 417, 422, 428), InvalidRequest),
    **dict.fromkeys((401, 403, 404, 405, 410, 421, 426, 498), Misconfigured),
    **dict.fromkeys((413, 414, 431), TooLarge),
    **dict.fromkeys((407, 408, 423, 424, 425, 499), ProviderUnavailable),
    402: QuotaExhausted,
    429: RateLimited,
    451: ContentFiltered,
}
# An error's own code or type, without - _ . and spaces: more special than any status, so it wins over one.
_BY_CODE: Final[dict[str, Leaf]] = {
    **dict.fromkeys(
        (
            "contextlengthexceeded", "contextwindowexceeded", "contextwindowexceedederror", "exceedcontextsizeerror",
            "stringabovemaxlength", "requesttoolarge", "payloadtoolarge", "inputtoolong", "tokenslimitreached",
            "toolargeerror", "prompttoolong",
        ),
        TooLarge,
    ),
    **dict.fromkeys(
        (
            "contentfilter", "contentfiltered", "contentpolicyviolation", "contentpolicyviolationerror",
            "moderationblocked", "responsibleaipolicyviolation", "datainspectionfailed", "safety", "prohibitedcontent",
        ),
        ContentFiltered,
    ),
    **dict.fromkeys(
        (
            "insufficientquota", "billingnotactive", "billinghardlimitreached", "exceededcurrentquotaerror",
            "insufficientbalance", "insufficientcredits", "paymentrequired", "accountdeactivated", "billingerror",
        ),
        QuotaExhausted,
    ),
    **dict.fromkeys(
        (
            "invalidapikey", "apikeyinvalid", "authenticationerror", "permissionerror", "modelnotfound",
            "deploymentnotfound", "unauthenticated", "permissiondenied", "unauthorized", "notfounderror",
        ),
        Misconfigured,
    ),
}  # fmt: skip
# Words that say something only where there is no status: inside a 200.
_BY_WORD: Final[dict[str, Leaf]] = {
    **dict.fromkeys(("invalidrequesterror", "badrequesterror", "badrequest", "invalidargument"), InvalidRequest),
    **dict.fromkeys(
        ("ratelimitexceeded", "ratelimiterror", "toomanyrequests", "resourceexhausted", "requests", "tokens"),
        RateLimited,
    ),
    **dict.fromkeys(
        (
            "servererror", "internalservererror", "internalerror", "overloadederror", "serviceunavailable", "timeout",
            "timeouterror", "unavailable", "engineoverloaded", "apierror",
        ),
        ProviderUnavailable,
    ),
}  # fmt: skip
# What providers say in words alone, where the status would be somebody else's fault.
_BY_SENTENCE: Final[tuple[tuple[re.Pattern[str], Leaf], ...]] = (
    (
        re.compile(
            r"context (?:length|window|size)|maximum context|too many tokens|tokens? .{0,40}must be <=|"
            r"prompt is too long|input is too long|reduce the length|longer than the maximum"
        ),
        TooLarge,
    ),
    (
        re.compile(
            r"content management policy|safety system|content policy|content filter|input was flagged|moderation"
        ),
        ContentFiltered,
    ),
    (
        re.compile(r"insufficient (?:balance|credit|fund)|(?:key|credit|spending) limit exceeded|exceeded your.*quota"),
        QuotaExhausted,
    ),
    (re.compile(r"api key not valid|incorrect api key|invalid api key"), Misconfigured),
)


# What the requester is told; of Misconfigured and Challenge, what names a setting, is said where that is known.
SENTENCES: Final[dict[Leaf, str]] = {
    InvalidRequest: "the provider refused the request as wrong; change its options or its messages",
    TooLarge: "the provider's context length or request size is passed; send less, or ask for fewer max_tokens",
    ContentFiltered: "the provider refuses to answer this prompt (content filter); change the prompt",
    QuotaExhausted: "the provider's account or key is used up; its operator has to top it up",
    RateLimited: "the provider limits how often it is asked; try again later",
    ProviderUnavailable: "the provider failed; try again later",
    BadResponse: "the provider sent an error instead of an answer; try again later",
}


def leaf_of(status: int | None, words: tuple[str, ...], message: str) -> Leaf:
    """Return the class of error.

    An error's own code is more special than any status, and its sentence more special than most.

    Args:
        status: The HTTP status, or the one that an error object inside a 200 names; None for neither.
        words: Codes and types in lower case, letters and digits alone, the most special one first.
        message: Its sentence in lower case.
    """
    for word in words:
        if word in _BY_CODE:
            return _BY_CODE[word]
    if status not in (402, 429):
        for pattern, leaf in _BY_SENTENCE:
            if pattern.search(message):
                return leaf
    return _of_words(words) if status is None else _of_status(status)


def _of_status(status: int) -> Leaf:
    if 300 <= status < 400:
        return Misconfigured
    return _BY_STATUS.get(status, ProviderUnavailable if status >= 500 else BadResponse)


def _of_words(words: tuple[str, ...]) -> Leaf:
    return next((_BY_WORD[word] for word in words if word in _BY_WORD), BadResponse)
