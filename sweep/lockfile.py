"""Hub revisions, resolved to commits once and remembered beside the spec: next year's run reads the same bytes."""

import json
from pathlib import Path

from sweep.errors import SpecError
from w2s.hub import RepoType, resolve_revision


class RevisionLock:
    """`my.yaml` has its commits in `my.lock.json`; delete an entry to move to a newer commit."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._commits: dict[str, str] = {}
        self._changed = False
        if path is not None and path.exists():
            try:
                self._commits = dict(json.loads(path.read_text()))
            except (OSError, ValueError):
                raise SpecError(f"{path}: is not a lock file any more; restore it or delete it") from None

    @classmethod
    def beside(cls, spec: Path) -> "RevisionLock":
        return cls(spec.with_suffix(".lock.json"))

    def dataset(self, name: str, revision: str | None) -> str | None:
        return self._resolve("dataset", name, revision)

    def model(self, name: str, revision: str | None) -> str | None:
        return self._resolve("model", name, revision)

    def _resolve(self, kind: RepoType, name: str, revision: str | None) -> str | None:
        if Path(name).is_absolute():  # a folder: its bytes are fingerprinted instead
            return revision
        key = f"{kind} {name}@{revision or 'main'}"
        if key not in self._commits:
            self._commits[key] = resolve_revision(name, revision, repo_type=kind)
            self._changed = True
        return self._commits[key]

    def save(self) -> None:
        if not (self._changed and self._path):
            return
        try:
            self._path.write_text(json.dumps(self._commits, indent=1, sort_keys=True) + "\n")
        except OSError as error:
            raise SpecError(f"{self._path}: the resolved hub commits cannot be saved: {error.strerror}") from None
