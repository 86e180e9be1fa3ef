"""How a checkpoint can be loaded, and who is served without a login, by name.

Nothing is imported here, so that `python app.py --help` answers at once.
"""

DTYPES = ("float32", "bfloat16", "float16", "auto")  # auto: the files' own
BITS = {"nf4": 4, "8bit": 8, "4bit": 4}  # "4bit" is another name for NF4
LOOPBACK = ("127.0.0.1", "localhost", "::1")
