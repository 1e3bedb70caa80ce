"""The doors: sockets on one side, the service that all doors share on the other.

``service.py`` and what it stands on know pools, handles and events, and no socket;
``connection.py`` and what it stands on know sockets, and no pool.
"""
