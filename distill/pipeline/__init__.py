"""Recipes of several stages as one file that can be killed anywhere and goes on: `rlvr pipeline run FILE`.

recipe.py           the file: inputs, stages, and who needs whom
verbs.py            what a stage may do, how it is started, and what it leaves
place.py            a recipe in its folder: paths, settings and command lines
checks.py           what can be known of all stages before one is run
models.py           the models that stages begin with: that they are there, and speak one language
cost.py             what a stage costs
identity.py         what a stage is made of, as hashes: by it a stage is known to be done, or to be another one
ledger.py           what is written down of each stage, and where
runner.py           stage after stage, each in a process of its own
guardian.py         the process above a stage's, which ends all that the stage has started
regression_gate.py  what a stage's policy must not lose
dry_run.py          what a run would do, without doing it
"""
