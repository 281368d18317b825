"""The daemon at work, with nothing but this machine: ``python -m examples.demo``.

A fake OpenAI behind TLS, an egress proxy that wants credentials, the daemon as a process of its
own between them and the official client. Each row of the table is checked; any wrong one makes the
exit status 1.
"""
