"""The external controller: one leader reads, asks the policy and sets the count."""
