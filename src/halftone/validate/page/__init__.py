"""`report.html`: the report for people, one page that needs nothing beside itself.

`halftone.validate.validating` calls `write_page` once the report is sealed. The page judges
nothing: outcomes and verdict come from the report, plots from the evidence of its gates.
"""

from halftone.validate.page.page import write_page

__all__ = ["write_page"]
