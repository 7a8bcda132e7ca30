"""A web page on the admin port for people: what Guard does now, and the latest inputs that it flagged.

It is made on the server, reads what Guard knows anyway, and changes nothing.
"""
