"""What each serving mode is asked, and whether the answer shows that the mode is on.

Called by the program for request files, and for the answers that came back. A question is one that
any instruction-tuned model can answer, so that a wrong answer speaks against the endpoint. Judging
takes the text of an answer's file and returns what is wrong with it, or None.
"""

import base64
import json
import struct
import zlib
from typing import Any, Final

MODEL: Final = "accepted"  # what the endpoint calls it
MODES: Final = ("text", "multimodal", "tools", "speculative", "longContext")

_NEEDLE: Final = "74291"
# Some 100,000 tokens: beyond any context that a model has without the mode's own settings, and less
# than half of what it asks for.
_SENTENCES: Final = 9_000
_SIDE: Final = 64  # pixels of the image
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def request(mode: str) -> dict[str, Any]:
    """The body of the request that shows `mode`."""
    asked: dict[str, Any] = {
        "text": "12+345=",  # which the pocket model can answer too
        "multimodal": [
            {"type": "image_url", "image_url": {"url": _red_square()}},
            {"type": "text", "text": "Which colour is this image? Answer with one word."},
        ],
        "tools": "What is the weather in Paris now? Use the tool.",
        "speculative": "Count from 1 to 60, with a comma between two numbers and nothing else.",
        "longContext": _haystack(),
    }
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": asked[mode]}],
        "max_tokens": 512,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},  # where a template knows it
    }
    return body | ({"tools": [_TOOL], "tool_choice": "auto"} if mode == "tools" else {})


def prompts() -> str:
    """JSON Lines for a comparison with a baseline."""
    topics = ("rivers", "bridges", "bread", "glass", "trains", "violins", "salt", "lighthouses")
    asked = ("what is known of", "who first wrote about")
    rows = [f"Explain in three sentences {how} {topic}." for topic in topics for how in asked]
    chats = [{"messages": [{"role": "user", "content": row}]} for row in rows]
    return "".join(json.dumps(chat) + "\n" for chat in chats)


def fault(mode: str, answer: str) -> str | None:
    """What is wrong with the answer to `request(mode)`; None when it shows the mode."""
    try:
        message = json.loads(answer)["choices"][0]["message"]
        text = str(message.get("content") or "")
        names = [call["function"]["name"] for call in message.get("tool_calls") or []]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return f"is no answer: {answer[:200]!r}"
    if mode == "tools":
        return None if names == ["get_weather"] else f"calls {names or 'no tool'}, not get_weather"
    wanted = {"text": "357", "multimodal": "red", "speculative": "59", "longContext": _NEEDLE}
    if wanted[mode] not in text.lower():
        return f"does not hold '{wanted[mode]}': {text[:200]!r}"
    return None


def speculation_fault(engine: str) -> str | None:
    """What is wrong with `/halftone/engine` of an endpoint that guesses ahead; None if it does."""
    try:
        told = json.loads(engine)["speculation"]
        drafts, taken = told["drafts"], told["acceptedTokens"]
    except (ValueError, KeyError, TypeError):
        return "says nothing of drafts"
    return None if drafts and taken else f"says {taken} tokens of {drafts} drafts were taken"


def _haystack() -> str:
    filler = ["The lamp in the hall was lit again at dusk."] * _SENTENCES
    filler.insert(_SENTENCES // 3, f"The number of the locker is {_NEEDLE}.")
    return " ".join(filler) + " What is the number of the locker? Answer with the number alone."


def _red_square() -> str:
    """A PNG as a data URI: one colour, 64 by 64."""
    rows = (b"\0" + b"\xff\0\0" * _SIDE) * _SIDE
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()
