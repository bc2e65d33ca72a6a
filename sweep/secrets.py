"""Addresses without credentials in them: specs, logs and reports are copied about."""

STORAGE_CURE = (
    "give them to the processes instead: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials, or the role"
    " of the machine"
)
_NAMES_ARE_FINE = ("sftp", "ssh", "hdfs", "webhdfs", "smb", "sqlite")
"""Where a user's name before the host is no secret."""


def credentials_in(url: str) -> str:
    """What stands before the host in a URL and may be secret; empty if nothing does."""
    scheme, _, rest = url.partition("://")
    before, at, _ = rest.partition("/")[0].rpartition("@")
    return before if at and (":" in before or scheme.lower() not in _NAMES_ARE_FINE) else ""


def refuse_credentials(url: str, cure: str) -> None:
    """Raises ValueError, which does not repeat them, if a URL carries credentials."""
    if found := credentials_in(url):
        raise ValueError(
            f"the address {url.replace(f'{found}@', '***@')} carries credentials, which would be copied into results"
            f" and logs; {cure}"
        )


def without_credentials(url: str) -> str:
    """A URL for people to read."""
    found = credentials_in(url)
    return url.replace(f"{found}@", "") if found else url
