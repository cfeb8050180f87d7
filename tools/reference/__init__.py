"""Writes the reference pages of the documentation from what they are about, so none can be wrong.

Called by `make generate` (`write`) and `make verify` (`check`):

    custom_resource   `docs/reference/quantizationjob.md` from the CRD
    chart_values      a page a chart from its `values.yaml`
    commands          `docs/reference/cli.md` from the program's own options
    recipes           `docs/reference/recipes.md` from the presets
    versions          `docs/reference/compatibility.md` from what pins versions
    decisions         `docs/adr/README.md` from the records

Each module gives Markdown text and writes nothing; `__main__` does. Nothing here asks the network.
"""
