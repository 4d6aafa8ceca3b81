"""How sentences end that say why a class does not express a program."""

INSTEAD = "save a program instead, with -o FILE.pt"
OR_AS_CLASS = f"{INSTEAD}, or the class with its own constants, with --as-class"
