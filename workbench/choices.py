"""How a checkpoint can be loaded, by name. Nothing is imported here, so that `python app.py --help` answers at once."""

DTYPES = ("float32", "bfloat16", "float16")
BITS = {"nf4": 4, "8bit": 8, "4bit": 4}  # "4bit" is another name for NF4
