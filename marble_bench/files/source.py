"""Where something is downloaded from: a corpus's archive or an encoder's weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place that a corpus or a set of weights comes from.

    url: `https://...`, `hf:owner/name`, `pypi:name==version`, or `folder:PATH` of weights that lie on this machine.
    mirror: a name for a place other than the makers' own. file: name to save as; empty takes the address's last part.
    unpack: it is a zip or tar. joined: parts of one archive carry its name here, in their order.
    files: of a model, the files wanted, of the hub's repository or below the address; on the hub, `a|b` takes the first of
        them that is there.
    optional: of a model, files that are taken too where they are there.
    digests: of a model, (file, digest) of those whose digest at `revision` is known: sha256, or git's id of the file.
    tensors: of a model in shards, only those with tensors of this prefix; `a|b` of either.
    beside: of a model that is made of several, (name of a folder, where its files come from): the conversion finds them in
        folders of these names beside the files of this place.
    revision: the commit of a hub repository or the version of a package; empty where no pin is known.
    sha256, md5: digest of the file that the place hands out (of a hub repository, of its file of tensors), where one is
        known; `head..tail` where only its ends are.
    size_bytes: its size, where known.
    status: `public`, `gated` (an account or a form is asked for), `dead` (gone, named for the record) or `unread`
        (there, in a form that is not read here, so it is not offered).
    note: what a user must know or do by hand.
    """

    url: str
    mirror: str = ""
    file: str = ""
    files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()
    tensors: str = ""
    beside: tuple[tuple[str, Source], ...] = ()
    unpack: bool = False
    joined: str = ""
    revision: str = ""
    sha256: str = ""
    md5: str = ""
    size_bytes: int | None = None
    status: str = "public"
    note: str = ""

    @property
    def pin(self) -> str:
        """What fixes the bytes that this hands out: a commit, a digest or a version; `unpinned` if nothing does."""
        if self.url.startswith("pypi:"):
            return f"version {self.revision}"
        if len(self.revision) == 40:
            return f"commit {self.revision[:12]}"
        return f"sha256 {self.sha256[:12]}" if len(self.sha256) == 64 else "unpinned"
