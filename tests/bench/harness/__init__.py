"""How the cases are run, counted and shown.

`processes` and `ways`: programs, natively and under Tandem. `case`: what a case is. `measure`: the rounds.
`machine`: where all that was. `results`: medians, ratios, goals, bands. `table`, `plots`, `report`: what is shown.
`profile`: instructions and system calls.
"""
