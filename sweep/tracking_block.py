"""The spec's `tracking` block: in which experiment trackers a sweep is shown. No part of any run's id.

tracking: tensorboard
tracking: [tensorboard, {wandb: {project: ladders, mode: offline}}]
tracking: {mlflow: {tracking_uri: "http://tracking:5000", experiment: ladders}, tensorboard: {folder: runs}}
"""

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sweep.errors import ErrorAt, nearest
from sweep.storage.secrets import refuse_credentials
from w2s.config import Config

Text = Annotated[str, Field(min_length=1)]
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


class TensorBoard(Config):
    """Event files for TensorBoard."""

    folder: Text | None = None
    """Where; relative to where the command is run. One folder per run is made there. Default: below the storage's
    `tracking/<sweep>/`, or of a remote storage `tracking/<sweep>/` here."""


class Wandb(Config):
    """Weights & Biases. The key comes from WANDB_API_KEY or `wandb login`, never from here."""

    project: Text | None = None
    """Default: the sweep's name. Runs are grouped by sweep."""
    entity: Text | None = None
    mode: Literal["online", "offline"] | None = None
    """`offline` writes folders that `wandb sync` sends later. Default: WANDB_MODE, or else online."""
    folder: Text | None = None
    """Where wandb keeps its files."""


class Mlflow(Config):
    """MLflow. Credentials come from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."""

    tracking_uri: Text | None = None
    """A server, or a database such as sqlite:///mlflow.db. Default: MLFLOW_TRACKING_URI, or else a database below the
    storage's `tracking/`."""
    experiment: Text | None = None
    """Default: the sweep's name. Runs carry the tag `w2s.sweep`."""

    @field_validator("tracking_uri")
    @classmethod
    def _uri_can_be_used(cls, uri: str | None) -> str | None:
        if uri is None:
            return uri
        refuse_credentials(
            uri, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or give the address in MLFLOW_TRACKING_URI"
        )
        scheme = uri.partition(":")[0] if ":" in uri else ""
        if scheme in ("", "file") and uri != "databricks" and not os.environ.get("MLFLOW_ALLOW_FILE_STORE"):
            path = uri.removeprefix("file:")
            path = path[2:] if path.startswith("//") else path
            raise ValueError(
                f"MLflow no longer keeps runs in a folder; name a database file, such as sqlite:///{path}/mlflow.db,"
                " or a server"
            )
        return uri


class Tracking(Config):
    """The trackers of a sweep; each may be left out."""

    tensorboard: TensorBoard | None = None
    wandb: Wandb | None = None
    mlflow: Mlflow | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_alone_take_defaults(cls, written: Any) -> Any:
        if isinstance(written, str):
            written = [written]
        if isinstance(written, list | tuple):
            return _merged(written)
        if isinstance(written, Mapping):
            return {name: {} if settings is None else settings for name, settings in written.items()}
        return written

    @property
    def chosen(self) -> list[str]:
        return [name for name in PACKAGES if getattr(self, name) is not None]


def _merged(entries: Iterable[Any]) -> dict[str, Any]:
    """A list of names and of mappings from a name to its settings, as one mapping."""
    merged: dict[str, Any] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, str):
            entry = {entry: {}}
        if not isinstance(entry, Mapping):
            raise ErrorAt(f"a tracker is one of {', '.join(PACKAGES)}, or {{name: settings}}; got {entry!r}", index)
        for name, settings in entry.items():
            if name not in PACKAGES:
                raise ErrorAt(f"there is no tracker '{name}'{nearest(str(name), PACKAGES)}", index)
            if name in merged:
                raise ErrorAt(f"tracker '{name}' is given twice; each is listed once", index)
            merged[name] = {} if settings is None else settings
    return merged
