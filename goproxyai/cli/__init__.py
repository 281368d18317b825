"""The command ``goproxyai``.

:mod:`.commands` is the table of the commands. Help, completion, the manual page and
``docs/reference/command-line.md`` are generated from it and from the table of settings.
"""
