"""L1, the words: job, documents, formats, roles, names and errors.

Every other room speaks in these types; this one imports none of them and does no work.
"""
