"""What others wrote, before anything here or a library takes it: files by their kind and size, fields by their types.

Read `files` (the boundary that turns whatever a library raises into one message; text, JSON and YAML that are bounded),
`fields` (tables of types and ranges), `limited` (work in a process with limits of time and memory), `put_off` (packages
of others that are loaded when something asks for them).

May import `files` and `errors`.
"""
