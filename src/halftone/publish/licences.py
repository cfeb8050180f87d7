"""Licences: which may be published where everybody can read, and how the Hub calls them.

The licence follows the weights, so a quantized model has its source's. What a licence really allows
is for people to read; here it is only decided whether somebody has to say that they did. Called by
the stages before work starts and again before publishing, and by the model card.
"""

from typing import Final

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.targets import LicenceConsent, Publish, Visibility

# Licences that ask for nothing that an artifact does not do by itself: the licence file, notices
# and the source's name go with it. All others need a person's word.
PERMISSIVE: Final = frozenset(
    {
        "afl-3.0",
        "apache-2.0",
        "artistic-2.0",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "bsl-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc0-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "ecl-2.0",
        "etalab-2.0",
        "isc",
        "mit",
        "ms-pl",
        "ncsa",
        "odc-by",
        "openmdw-1.0",
        "pddl",
        "postgresql",
        "unlicense",
        "wtfpl",
        "zlib",
    }
)

# What the others ask, by how their identifier begins; the first that fits. For the message only:
# a licence without a row here is refused all the same.
_ASKS: Final = (
    ("agpl", "asks whoever offers the model over a network to offer its sources too"),
    ("gpl", "asks for the same licence and for sources with every copy"),
    ("lgpl", "asks for the same licence for what is derived from it"),
    (("mpl", "epl", "eupl", "osl", "cc-by-sa", "odbl"), "asks for the same licence for changes"),
    ("cc-by-nc", "forbids commercial use"),
    ("cc-by-nd", "forbids to share what was changed, and quantized weights are changed"),
    ("llama", "has terms of its own: the model's name, a notice, and a use policy to pass on"),
    ("gemma", "has terms of its own: a use policy to pass on to whoever gets the model"),
    (
        ("openrail", "bigscience-", "bigcode-", "creativeml-", "deepfloyd-"),
        "has use restrictions to pass on to whoever gets the model",
    ),
    (("apple-", "intel-", "h-research", "fair-noncommercial"), "allows research only"),
    (("other", "unknown"), "is none that has a name, so only its text says what it allows"),
)

# The rest of the identifiers that the Hub takes in a card; any other goes there as `license: other`
# with a name. From its documentation, https://huggingface.co/docs/hub/repositories-licenses.
_CONDITIONAL: Final = """
agpl-3.0 apple-amlr apple-ascl bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m c-uda cc cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license epl-1.0 epl-2.0
eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0
grok2-community h-research intel-research lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1
llama3.2 llama3.3 llama4 lppl-1.3c mpl-2.0 odbl ofl-1.1 openrail openrail++ osl-3.0 other
unknown
"""
HUB_IDENTIFIERS: Final = PERMISSIVE | frozenset(_CONDITIONAL.split())


def refuse_unacknowledged(licence: str | None, publish: Publish) -> None:
    """Raise RefusedInput(LicenceNotAcknowledged) for a licence that somebody has to read first.

    `licence` is the source's, as the plan states it: an identifier, the name of a licence file, or
    None. Only a public repository on the Hub is public; who reads a bucket or a directory is
    decided elsewhere.
    """
    target = publish.huggingFace
    if target is None or target.visibility is not Visibility.Public:
        return
    if publish.licence is LicenceConsent.Acknowledged or is_permissive(licence):
        return
    raise RefusedInput(
        Reason.LicenceNotAcknowledged,
        "publish.licence",
        f"{_told(licence)}, and '{publish.uri}' would be public; read it and set "
        "`publish.licence: Acknowledged`, or set `publish.huggingFace.visibility: Private`.",
    )


def is_permissive(licence: str | None) -> bool:
    """Whether `licence` asks for nothing beyond naming its source; of several, each of them."""
    return licence is not None and PERMISSIVE.issuperset(_each(licence))


def asks(licence: str) -> str | None:
    """What a licence asks, as the rest of a sentence; None for one that is not known here.

    Of several, the first that asks for something speaks.
    """
    found = (told for one in _each(licence) for start, told in _ASKS if one.startswith(start))
    return next(found, None)


def _each(licence: str) -> list[str]:
    """The identifiers of a source that states several, `mit, agpl-3.0`, or the one."""
    return [name.strip() for name in licence.lower().split(",")]


def _told(licence: str | None) -> str:
    if licence is None:
        return "The source states no licence, so nobody is known to have allowed publishing it"
    known = asks(licence)
    if known is None:
        return f"The source's licence '{licence}' is not one that is known to allow this"
    return f"The source's licence '{licence}' {known}"
