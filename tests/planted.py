"""Secrets that tests plant where a user keeps them, and the search for them in all that is written.

    secrets = Secrets(server.secret_key, key)
    assert secrets.found_in(ended.err.encode()) == set()
    assert secrets.found_below(workdir, cache) == {}

Called by tests of the whole program. A secret is searched for as it is, and in every form in which
a program may show what it holds.
"""

import base64
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

TOKEN = "hf_" + "PlantedToken" * 3
SESSION = "PlantedSession" * 3
WRONG_KEY = "PlantedWrongKey+/" * 3
PASSWORD = "PlantedPassword"
NO_KEY = "-----BEGIN PRIVATE KEY-----\nUGxhbnRlZEtleVRoYXRJc05vS2V5\n-----END PRIVATE KEY-----\n"

# How a secret may be written.
FORMS: tuple[Callable[[str], str], ...] = (
    str,
    lambda text: quote(text, safe=""),
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: text.encode().hex(),
)


class Secrets:
    """What was planted, and the search for it."""

    def __init__(self, s3_secret: str, key: Path) -> None:
        self.key = key
        self._forms: dict[str, list[bytes]] = {}
        texts = {
            "AWS_SECRET_ACCESS_KEY": s3_secret,
            "AWS_SESSION_TOKEN": SESSION,
            "HF_TOKEN": TOKEN,
            "the wrong key": WRONG_KEY,
            "the password": PASSWORD,
            "the key that is none": NO_KEY.splitlines()[1],
        }
        for name, text in texts.items():
            self._forms[name] = [form(text).encode() for form in FORMS]
        private = load_pem_private_key(key.read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        scalar = private.private_numbers().private_value.to_bytes(32, "big")
        lines = key.read_bytes().splitlines()[1:-1]
        self._forms["the private key"] = [*lines, scalar, scalar.hex().encode()]

    def found_in(self, data: bytes) -> set[str]:
        """The names of the secrets that `data` holds in any form."""
        return {name for name, forms in self._forms.items() if any(form in data for form in forms)}

    def found_below(self, *folders: Path) -> dict[str, set[str]]:
        """By path: what lies in files, their names included; the private key's own is left out."""
        found = {}
        for folder in folders:
            for path in folder.rglob("*"):
                data = str(path).encode()
                if path.is_file() and path != self.key:
                    data += path.read_bytes()
                if names := self.found_in(data):
                    found[str(path)] = names
        return found
