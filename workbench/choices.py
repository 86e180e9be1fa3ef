"""Names of the choices for loading a checkpoint, and the host names that need no login.

This module imports nothing, so that `python app.py --help` is fast.
"""

DTYPES = ("float32", "bfloat16", "float16", "auto")  # auto: the dtype of the files
BITS = {"nf4": 4, "8bit": 8, "4bit": 4}  # "4bit" is another name for NF4
LOOPBACK = ("127.0.0.1", "localhost", "::1")
