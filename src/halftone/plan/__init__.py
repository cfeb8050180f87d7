"""L3, the paper: (job, headers) to a plan or a refusal, with sizes and digest.

Everything here is pure: headers and `config.json` go in, documents come out. No weight is read.
"""
