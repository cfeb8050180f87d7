"""`README.md` of an artifact: its model card, made from documents alone.

`halftone.cli.publishing` calls `model_card`. A card states what the plan, the checkpoint document
and the report state; no figure in it was typed by hand, and equal documents give equal bytes.
"""

from halftone.publish.card.card import model_card

__all__ = ["model_card"]
