"""Containers of file formats that a frontend and a backend share; they know bytes, not the IR."""
