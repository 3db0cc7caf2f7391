"""The text form of the IR: grammar, parser and printer."""
