"""Which licences need a person's word before weights are public.

We test these aspects: permissive ones need none; restricted, copyleft, unknown and absent ones do;
only a public repository is public; the refusal names the licence, what it asks, and the way out.
"""

import pytest

from halftone.publish.licences import HUB_IDENTIFIERS, asks, is_permissive, refuse_unacknowledged
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.targets import (
    DirectoryTarget,
    HuggingFaceTarget,
    LicenceConsent,
    Publish,
    S3Target,
    Visibility,
)

RESTRICTED = [
    "agpl-3.0",
    "AGPL-3.0",
    "agpl-3.0-only",
    "cc-by-nc-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-4.0",
    "gemma",
    "gpl-3.0",
    "lgpl-3.0",
    "llama3.1",
    "mpl-2.0",
    "openrail",
    "other",
    "unknown",
    "somebody-s-own",
    "LICENSE",
    None,
]


def on_the_hub(visibility: Visibility, licence: LicenceConsent = LicenceConsent.Inherit) -> Publish:
    target = HuggingFaceTarget(repository="org/name", visibility=visibility)
    return Publish(huggingFace=target, licence=licence)


@pytest.mark.parametrize("licence", RESTRICTED)
def test_a_restricted_licence_is_not_made_public_unread(licence: str | None) -> None:
    with pytest.raises(RefusedInput) as caught:
        refuse_unacknowledged(licence, on_the_hub(Visibility.Public))
    assert caught.value.reason is Reason.LicenceNotAcknowledged
    assert caught.value.subject == "publish.licence"
    assert "`publish.licence: Acknowledged`" in caught.value.message
    assert "hf://org/name" in caught.value.message
    assert (licence or "states no licence") in caught.value.message


@pytest.mark.parametrize("licence", RESTRICTED)
def test_somebody_who_read_it_may_publish(licence: str | None) -> None:
    refuse_unacknowledged(licence, on_the_hub(Visibility.Public, LicenceConsent.Acknowledged))


@pytest.mark.parametrize(
    "licence",
    ["apache-2.0", "Apache-2.0", "mit", "cc-by-4.0", "bsd-3-clause", "mit, apache-2.0"],
)
def test_a_permissive_licence_needs_nobodys_word(licence: str) -> None:
    refuse_unacknowledged(licence, on_the_hub(Visibility.Public))


@pytest.mark.parametrize(
    "publish",
    [
        on_the_hub(Visibility.Private),
        Publish(s3=S3Target(uri="s3://bucket/model")),
        Publish(directory=DirectoryTarget(path="/models/small")),
    ],
    ids=["private repository", "bucket", "directory"],
)
@pytest.mark.parametrize("licence", RESTRICTED)
def test_what_is_not_public_needs_nobodys_word(licence: str | None, publish: Publish) -> None:
    refuse_unacknowledged(licence, publish)


def test_the_refusal_says_what_the_licence_asks() -> None:
    for licence, told in (
        ("agpl-3.0", "'agpl-3.0' asks whoever offers the model over a network"),
        ("cc-by-nc-4.0", "'cc-by-nc-4.0' forbids commercial use"),
        ("mit, agpl-3.0", "'mit, agpl-3.0' asks whoever offers the model over a network"),
    ):
        with pytest.raises(RefusedInput) as caught:
            refuse_unacknowledged(licence, on_the_hub(Visibility.Public))
        assert told in caught.value.message


def test_only_licences_without_a_condition_are_permissive() -> None:
    assert sorted(name for name in HUB_IDENTIFIERS if is_permissive(name) and asks(name)) == []
