"""One module a metric: from what was measured to a `GateResult`. No judgement stands elsewhere."""
