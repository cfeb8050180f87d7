"""The operator of QuantizationJobs: `python -m operators.quantizationjob --settings FILE`.

    pump      watches fill indexes and a queue of names
    observe   one name becomes an `Observed`: all reads
    (halftone.control.reconcile decides)
    apply     a `Decision` becomes requests: all writes

It judges nothing itself, and keeps nothing that the cluster does not have.
"""
