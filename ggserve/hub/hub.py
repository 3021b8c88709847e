"""Model files from a hub: chooses a file of a repository, downloads it, and keeps it in the hub library's cache.

A cached file is used without asking the network. All settings are huggingface_hub's own environment variables: HF_HOME,
HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and so on.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, validate_repo_id

from ggserve.errors import ModelFileError
from ggserve.hub.pick import choose, human_size, models, projector
from ggserve.hub.progress import Progress, Watch
from ggserve.modelfile.split_files import part_names

log = logging.getLogger("ggserve.model")

_LIST_TIMEOUT = 10.0  # seconds
_USUAL = "Q4_K_M"  # the choice of other programs too, for a repository with many quantizations
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"(?!\.)[\w.+=-]+")  # of one file, which leads to no other folder


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository at one revision: a branch, a tag or a commit."""

    id: str
    revision: str
    cache: Path

    @classmethod
    def parse(cls, name: str, cache: Path | None = None) -> "Repository":
        """Parse `org/name` or `org/name@revision`. Raises ModelFileError."""
        repo_id, _, revision = name.partition("@")
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ModelFileError(
                f"there is no file or folder {name}, and it is not a repository name: {error}"
            ) from None
        if revision and not all(map(_PLAIN_NAME.fullmatch, revision.split("/"))):  # it becomes a path of the cache
            raise ModelFileError(f"{revision!r} is not a revision of {repo_id}: write a branch, a tag or a commit")
        return cls(repo_id, revision or constants.DEFAULT_REVISION, cache or Path(constants.HF_HUB_CACHE))

    def __str__(self) -> str:
        return self.id if self.revision == constants.DEFAULT_REVISION else f"{self.id}@{self.revision}"

    @property
    def folder(self) -> Path:
        """The cache folder of this repository."""
        return self.cache / repo_folder_name(repo_id=self.id, repo_type="model")

    @property
    def snapshot(self) -> Path:
        """The cache folder of this revision's files; it may not exist."""
        ref = self.folder / "refs" / self.revision
        return self.folder / "snapshots" / (ref.read_text() if ref.is_file() else self.revision)

    def url(self, name: str) -> str:
        """The URL of a file on the hub."""
        return hf_hub_url(self.id, name, revision=self.revision)


def download(
    name: str, file: str | None = None, *, cache: Path | None = None, watch: Watch = lambda progress: None
) -> Path:
    """Return the cached path of a repository's model file: `file` (or its quantization), the only model file, or else
    the only one in Q4_K_M. A vision model comes with its projector. `cache`: None for the library's own.

    Raises ModelFileError. After an interrupted download, the next call continues where it stopped.
    """
    repository = Repository.parse(name, cache)
    snapshot = repository.snapshot
    cached = {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in _files(snapshot)}
    whole = {name: size for name, size in cached.items() if cached.keys() >= set(part_names(name))}
    with suppress(ModelFileError):
        return snapshot / choose(whole, file, str(repository), usual=_USUAL)
    if constants.HF_HUB_OFFLINE:
        has = f"has only {', '.join(models(whole))} of it" if models(whole) else "has none of its files"
        raise ModelFileError(
            f"HF_HUB_OFFLINE is set, but {file or 'the model file'} of {repository} is not in the cache "
            f"{repository.cache}, which {has}"
        )
    with _explained(repository):
        info = HfApi().model_info(
            repository.id, revision=repository.revision, files_metadata=True, timeout=_LIST_TIMEOUT
        )
        sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
        chosen = choose(sizes, file, str(repository), usual=_USUAL)
        companion = projector(chosen, sizes)
        # The model comes last: once it is cached, so is everything that it needs.
        for name in ([companion] if companion else []) + part_names(chosen):
            _download_blob(repository, name, sizes[name], watch)
            hf_hub_download(repository.id, name, revision=repository.revision, cache_dir=repository.cache)
        return repository.snapshot / chosen


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _download_blob(repository: Repository, name: str, size: int, watch: Watch) -> None:
    """Put the file's content into the cache, where `hf_hub_download` then finds it.

    That function would download too, but since huggingface_hub 2 it starts from zero after a restart.
    """
    metadata = get_hf_file_metadata(repository.url(name))
    size = metadata.size or size
    if metadata.etag is None:
        raise ModelFileError(f"{constants.ENDPOINT} does not respond like a Hugging Face hub: no ETag for {name}")
    if not _PLAIN_NAME.fullmatch(metadata.etag):  # it becomes the name of a file
        raise ModelFileError(
            f"{constants.ENDPOINT} does not respond like a Hugging Face hub: ETag {metadata.etag!r} of {name}"
        )
    blob = repository.folder / "blobs" / metadata.etag
    partial = blob.with_name(f"{blob.name}.incomplete")
    lock = repository.cache / ".locks" / repository.folder.name / f"{metadata.etag}.lock"
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):  # the library's own lock: of several servers that start at once, one downloads
        if blob.exists():
            return
        have = partial.stat().st_size if partial.exists() else 0
        _check_room(blob.parent, size - have, name)
        if size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            return  # more than a hub serves over HTTP; hf_hub_download has another protocol
        _download_rest(
            repository, name, partial, size, lambda have: watch(Progress(name, metadata.etag or "", size, have))
        )
        if _SHA256.fullmatch(metadata.etag) and _sha256(partial) != metadata.etag:
            partial.unlink()
            raise ModelFileError(f"{name} from {repository} was damaged in the download (wrong SHA-256): start again")
        os.replace(partial, blob)


def _check_room(folder: Path, nbytes: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise ModelFileError(
            f"{name} needs {human_size(nbytes)} of disk space in {folder.parents[1]}, but {human_size(free)} are free: "
            "free some space, or set HF_HOME to a folder on another disk"
        )


class _Watched:
    """A file that reports its length after each write."""

    def __init__(self, file: BinaryIO, watch: Callable[[int], object]) -> None:
        self._file, self._watch = file, watch

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._watch(self._file.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _download_rest(repository: Repository, name: str, partial: Path, size: int, watch: Callable[[int], object]) -> None:
    """Append to `partial` what it lacks of `size` bytes. It stays if the connection breaks or the user stops."""
    with partial.open("ab") as file:
        have = file.tell()
        if have > size:
            have = file.truncate(0)
        there = f", {human_size(have)} already downloaded" if have else ""
        log.info("downloading %s (%s%s) from %s", name, human_size(size), there, repository)
        watch(have)
        try:
            http_get(
                repository.url(name),
                cast(BinaryIO, _Watched(file, watch)),
                resume_size=have,
                headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                expected_size=size,
                displayed_filename=name,
            )
        except OSError as error:
            if isinstance(error, HfHubHTTPError) or error.errno is not None:
                raise
            file.truncate(0)  # complete, but with another length than the hub announced
            raise ModelFileError(f"{name} from {repository} has the wrong size: start again") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: OSError) -> str:
    """Return the system's error message, with the variable that leads to the file."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{reason}: {error.filename}: set HF_HOME to a writable folder"
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):  # the TLS library does not say which file it did not find
        if path := os.environ.get(name):
            return f"{reason}: check {name}={path}"
    return reason


@contextmanager
def _explained(repository: Repository) -> Iterator[None]:
    """Turn the hub library's exceptions into ModelFileError, with one line that says what to do."""
    hub = constants.ENDPOINT
    try:
        yield
    except GatedRepoError as error:
        raise ModelFileError(
            f"{repository} is gated: request access at {hub}/{repository.id}, and set HF_TOKEN to your token"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelFileError(f"{repository.id} has no revision {repository.revision}") from error
    except RepositoryNotFoundError as error:
        raise ModelFileError(
            f"there is no folder {repository.id} here and no such repository on {hub} (a private one needs HF_TOKEN)"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ModelFileError(f"{hub} refuses access to {repository}: check the token in HF_TOKEN") from error
        raise ModelFileError(f"{hub} answered {status} for {repository}: try again later") from error
    except HTTPError as error:
        raise ModelFileError(
            f"no connection to {hub} for {repository} ({error or type(error).__name__}): check the network and start "
            "again; an interrupted download continues"
        ) from error
    except OSError as error:
        raise ModelFileError(f"{repository} cannot be downloaded: {_reason(error)}") from error
    except ValueError as error:
        raise ModelFileError(f"{hub} does not respond like a Hugging Face hub: {error}") from error
