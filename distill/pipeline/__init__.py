"""Recipes of several stages as one file that can be killed anywhere and goes on: `rlvr pipeline run FILE`.

recipe.py   the file: inputs, stages, and who needs whom
verbs.py    what a stage may do, how it is started, and what it leaves
identity.py what a stage is made of, as hashes: by it a stage is known to be done, or to be another one than it was
ledger.py   what is written down of each stage, and where
runner.py   stage after stage, each in a process of its own
dry_run.py  what a run would do, without doing it
"""
