"""``goproxyai demo``: the daemon between a made-up OpenAI API and made-up clients, on loopback.

* :mod:`.phases`: when the API works, refuses, fails or is away.
* :mod:`.answers`: what the API answers.
* :mod:`.api`: the API as a server.
* :mod:`.scenario`: which requests the clients send.
* :mod:`.traffic`: the clients.
* :mod:`.demo`: starts and stops all of them in one process.
"""
