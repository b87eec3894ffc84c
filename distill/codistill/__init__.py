"""Co-distillation: two or more policies in one run, each with learner and generators, teach each other.

plan.py     the file: shared settings, peers, and how they teach
weights.py  what a token's advantage is made of, one pure function for each factor
peers.py    a peer as the others see it: a teacher that goes on learning, and how often it is right
asking.py   what peers say of rows, as far as they say it in time
mixing.py   what peers say of a row, made into what the row trains
imitation.py what is learned of a peer that thinks too differently
stage.py    the stage between rollouts and learner
run.py      the run: all peers side by side, and what is left when one of them dies
command.py  the command line
"""
