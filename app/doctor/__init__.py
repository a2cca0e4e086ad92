"""`gaveurs doctor`: looks at what the service stands on, changes nothing, and says in plain words what is wrong."""
