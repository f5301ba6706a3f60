"""What can be said of a source without running it. Whether it runs is found out by running it."""

_OFFERS = {
    "build_model": "build_model(config), which returns an untrained model",
    "main": "main(session), which trains one and returns it",
}


def source_problem(source: bytes, limit_bytes: int) -> str:
    """Why these bytes cannot be a source, or nothing. Whether it runs is found out by running it."""
    if not source.strip():
        return "train.py is empty"
    if len(source) > limit_bytes:
        return f"train.py is {len(source)} bytes long, the limit is {limit_bytes}"
    try:
        source.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"train.py is not UTF-8 (byte {error.start})"
    return ""


def lacking(source: bytes) -> str:
    """What a source lacks that a trial calls, or nothing: a name that it nowhere mentions."""
    for name, what in _OFFERS.items():
        if name.encode() not in source:
            return f"train.py has no function {name}: define {what}"
    return ""
