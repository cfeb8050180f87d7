"""The external controller: one leader reads, asks the policy and sets how many replicas there are."""
