"""The reference of the presets: what each gives to which role, and the text to begin with.

Called by `tools.reference`. The texts are the files that the package ships; formats are those of
`halftone.spec.formats`.
"""

from typing import Final

from halftone.spec.formats import FORMATS
from halftone.spec.job import Quantization, Recipe
from halftone.spec.recipes import Preset, presets, resolve
from tools.reference.markdown import code, page, table

_TOLD: Final = """\
Recipes that are shipped, by the name that `quantization.preset` and `--recipe` take. A role that
a recipe does not name keeps the source's precision. `halftone recipes NAME` prints one, to begin
your own with; [Recipes](../using.md#recipes) says what may stand in it, and [the
reference](quantizationjob.md#specquantization) every field."""


def written() -> str:
    """The page."""
    known = presets().values()
    head = ["preset", "formats", "KV cache", "layout", "needs data"]
    return page(
        "Recipes and formats",
        _TOLD,
        table(head, map(_row, known)),
        "## Formats\n\n" + table(["format", "layouts", "needs data"], _formats()),
        *(f"## {one.name}\n\n{one.description}\n\n```yaml\n{_body(one)}\n```" for one in known),
    )


def _row(preset: Preset) -> list[str]:
    recipe = resolve(Quantization(preset=preset.name), preset.name)
    formats = sorted({line.format for line in recipe.precision})
    cache = recipe.kvCache
    return [
        f"[{preset.name}](#{preset.name})",
        ", ".join(formats),
        f"{cache.format}, {cache.scales.lower()}" if cache else "",
        recipe.checkpointFormat,
        _needs_data(recipe),
    ]


def _needs_data(recipe: Recipe) -> str:
    measured = any(FORMATS[line.format].needs_calibration for line in recipe.precision)
    return "yes" if measured or recipe.measures_cache else ""


def _formats() -> list[list[str]]:
    return [
        [code(name), ", ".join(traits.layouts), "yes" if traits.needs_calibration else ""]
        for name, traits in FORMATS.items()
    ]


def _body(preset: Preset) -> str:
    """The text without its first comment, which is the description."""
    return preset.text.partition("\n")[2].strip()
