"""Tokens of finished requests through Ray, which keeps no exact sum of them.

Called by `assembling`. Ray makes the sum of a histogram from the middles of its buckets: requests
of 2,100 tokens are counted with 3,500, the middle of 2,000 and 5,000. The tokens of all requests
are exact, and so is how many had their first token and how many finished, which gives the tokens of
those that finished but for what the unfinished have more or less than the mean.
"""

from dataclasses import replace

from halftone.scaling.reading import ReplicaReading


def estimated(read: ReplicaReading, before: ReplicaReading | None) -> ReplicaReading:
    """The same with sums of finished requests that rest on exact counters.

    They do not shrink from `before`, this replica's reading before, unless it has begun anew. As it
    was, where no histogram says how many had their first token.
    """
    begun = read.ttft[-1] if read.ttft else 0.0
    if begun <= 0:
        return read
    # Rules record one after the other, so more may seem to have finished than have begun.
    begun = max(begun, read.finished)
    prompt = read.prompt_tokens * read.finished / begun
    # A request that is not finished has half of its output on average.
    output = read.generation_tokens * read.finished / ((begun + read.finished) / 2)
    if before is not None and read.finished >= before.finished:
        prompt = max(prompt, before.finished_prompt_tokens)
        output = max(output, before.finished_output_tokens)
    return replace(read, finished_prompt_tokens=prompt, finished_output_tokens=output)
