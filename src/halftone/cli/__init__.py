"""L5, the door: one verb a file, and the stages that every runner calls.

Commands translate options to calls and documents to text; they decide nothing.
"""
