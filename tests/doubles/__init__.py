"""Doubles of services that no test can reach: real protocols on loopback, and nothing patched.

Each module says in its docstring what it stands for and what it leaves out.
"""
