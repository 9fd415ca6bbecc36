"""The `nemo-bt` command: arguments in, exit status out.

Read `main` (a function for each command), `training` (those of train and validate), then `arguments`. `help`,
`examples` and `completion` are what a user sees before a command runs, `kinds` says whose settings it takes. `worker`
is what a command does on each rank, `job` the same for a program that imports the package, `status`, `fetch` and
`check_nodes` (with `sniff`, what it has devices try) are commands that need nothing else. Importing `main` imports
nothing heavy.

May import everything below; nothing but `api`, `__main__` and the quickstart imports this folder.
"""
