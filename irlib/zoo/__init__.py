"""The zoo: small networks, their weights and the manifest that says where they come from. See `python -m irlib.zoo --help`."""
