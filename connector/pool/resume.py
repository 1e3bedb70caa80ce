"""Taking up an image that an earlier process left: the journal says what, the store says how far.

What the store lists is the truth about parts; the journal adds the digests' states. An object whose
state cannot be settled is begun again, from its own first byte: what came before it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from catalog.errors import CorruptObject, ImageErased, ObjectNotFound
from connector.pool import keys, names
from connector.pool.attempts import AttemptRow, ObjectRow, ObjectState, PartRow
from connector.pool.coded import CodedObject, CodedWriter, new_stream
from connector.pool.context import PoolContext
from connector.pool.digest import Sha256
from connector.pool.frames import FrameCoder
from connector.pool.keys import KeyOf
from connector.pool.manifest import FragmentObject, Manifest
from connector.pool.writer import ImageWriter, OpenObject, as_parts, confirmed
from connector.store.interface import Part, Upload


def resume_writer(
    context: PoolContext, attempt: AttemptRow, commit: Callable[[Manifest], Manifest]
) -> ImageWriter | None:
    """A writer that stands behind the last byte that is safe; its ``offset`` says where.

    None when this machine cannot take up the digests' states; the image must then be begun anew.
    """
    objects = context.attempts.objects(attempt.token)
    try:
        coder = open_coder(context, attempt, begun=bool(objects))
    except ImageErased:
        return None  # its key is lost; nothing was committed
    done = [row.record for row in objects if row.state is ObjectState.DONE and row.record]
    state = None
    current: OpenObject | None = None
    for row in objects:
        if row.state is not ObjectState.DONE:
            settled = _settle(context, attempt, row, coder)
            if isinstance(settled, FragmentObject):
                context.attempts.object_done(attempt.token, settled)
                done.append(settled)
            else:
                current, state = settled
                break
        state = row.end_state
    image_sha256 = Sha256() if not objects else Sha256.restore(state)
    if image_sha256 is None:
        return None
    writer = make_writer(
        context, attempt, commit, coder, done=done, image_sha256=image_sha256, current=current
    )
    if current is not None and _was_ending(current, attempt):
        writer.cut()
    return writer


def begin_writer(
    context: PoolContext, attempt: AttemptRow, commit: Callable[[Manifest], Manifest]
) -> ImageWriter:
    """A writer for an attempt that was journaled just now; an encrypted one gets its key here."""
    key: bytes | None = None
    if attempt.request.encrypted:
        key = keys.create(context.store, context.coding, _whose(attempt), clock=context.clock)
    return make_writer(context, attempt, commit, _coder(attempt, key))


def open_coder(context: PoolContext, attempt: AttemptRow, *, begun: bool) -> FrameCoder | None:
    """What codes the attempt's frames; None when its bytes are stored as they are.

    Raises:
        ImageErased: bytes were encrypted with a key that is not there any more.
        ConfigError: the pool has no master key, or another one than the key is wrapped by.
    """
    key: bytes | None = None
    if attempt.request.encrypted:
        whose = _whose(attempt)
        try:
            key = keys.load(context.store, context.coding, whose)
        except ImageErased:
            if begun:
                raise
            key = keys.create(context.store, context.coding, whose, clock=context.clock)
    return _coder(attempt, key)


def _coder(attempt: AttemptRow, key: bytes | None) -> FrameCoder | None:
    code = attempt.request.code
    return None if code is None else FrameCoder(code, token=attempt.token, key=key)


def _whose(attempt: AttemptRow) -> KeyOf:
    return KeyOf(name=attempt.name, copy=attempt.copy, token=attempt.token)


def make_writer(
    context: PoolContext,
    attempt: AttemptRow,
    commit: Callable[[Manifest], Manifest],
    coder: FrameCoder | None,
    *,
    done: Sequence[FragmentObject] = (),
    image_sha256: Sha256 | None = None,
    current: OpenObject | None = None,
) -> ImageWriter:
    """The writer for an attempt, coding or not."""
    kind = ImageWriter if coder is None else partial(CodedWriter, coder=coder)
    return kind(
        context,
        attempt.request,
        commit,
        name=attempt.name,
        copy=attempt.copy,
        token=attempt.token,
        done=done,
        image_sha256=image_sha256,
        current=current,
    )


def _was_ending(current: OpenObject, attempt: AttemptRow) -> bool:
    """Whether the last part that is safe was the object's last: no other may follow a short one."""
    if isinstance(current, CodedObject):
        return current.ended
    if not current.sent:
        return False
    last = current.sent[-1].result().size
    request = attempt.request
    return last < request.part_size or current.size == request.fragment_size


def clean_away(context: PoolContext, attempt: AttemptRow) -> None:
    """Remove everything that an attempt put into the store, and the attempt itself.

    Its objects are not locked (that comes with the commit), so they can be removed.
    """
    for row in context.attempts.objects(attempt.token):
        key = names.fragment_key(attempt.name, attempt.copy, attempt.token, row.number)
        for upload in list(context.store.uploads(key)):
            context.store.abort_upload(upload)
        _delete_object(context, key, row.record)
    if attempt.request.encrypted:
        _delete_object(context, _whose(attempt).object, None)
    context.attempts.forget(attempt.token)


def _settle(
    context: PoolContext, attempt: AttemptRow, row: ObjectRow, coder: FrameCoder | None
) -> FragmentObject | tuple[OpenObject | None, bytes | None]:
    """Either the object turns out to be there, or where to go on and the digest's state there."""
    key = names.fragment_key(attempt.name, attempt.copy, attempt.token, row.number)
    if row.state is ObjectState.COMPLETING and row.record and row.upload_id:
        parts = as_parts(context.attempts.parts(attempt.token, row.number))
        upload = Upload(key=key, upload_id=row.upload_id)
        try:
            crc = row.record.crc64nvme
            return confirmed(
                row.record, context.store.complete_upload(upload, parts, crc64nvme=crc)
            )
        except (ObjectNotFound, CorruptObject):
            return _begin_again(context, row, key)
    if row.state is ObjectState.PUTTING and row.record:
        try:
            stored = context.store.stat(key)
        except ObjectNotFound:
            return _begin_again(context, row, key)
        if stored.size == row.record.stored_size and stored.crc64nvme == row.record.crc64nvme:
            return confirmed(row.record, stored)
        return _begin_again(context, row, key)
    if row.state is ObjectState.UPLOADING and row.upload_id:
        upload = Upload(key=key, upload_id=row.upload_id)
        try:
            listed = {part.number: part for part in context.store.parts(upload)}
        except ObjectNotFound:
            return _begin_again(context, row, key)
        return _continue_upload(context, attempt, row, upload, listed, coder)
    return _begin_again(context, row, key)


def _continue_upload(
    context: PoolContext,
    attempt: AttemptRow,
    row: ObjectRow,
    upload: Upload,
    listed: dict[int, Part],
    coder: FrameCoder | None,
) -> tuple[OpenObject, bytes | None]:
    """Go on behind the longest run of parts that the journal and the store agree on."""
    receipts = context.attempts.parts(attempt.token, row.number)
    agreed = [part for part in receipts if _agree(part, listed.get(part.number))]
    safe = [part for at, part in enumerate(agreed, start=1) if part.number == at]
    own_digest: Sha256 | None = None
    state = row.start_state
    if safe:
        state = safe[-1].image_state
    if row.number or coder is not None:
        own_digest = Sha256.restore(safe[-1].object_state) if safe else Sha256()
        if own_digest is None:
            state = None
    for part in agreed:
        known = listed[part.number]
        listed[part.number] = Part(
            number=part.number, size=part.size, etag=known.etag, crc64nvme=part.crc64nvme
        )
    held = {n: part for n, part in listed.items() if n > len(safe)}
    if coder is not None:
        return _coded_object(context, attempt, row, upload, safe, held, own_digest, coder), state
    current = OpenObject(
        number=row.number,
        offset=row.offset,
        sha256=own_digest,
        upload=upload,
        size=sum(part.size for part in safe),
        sent=[_finished(part) for part in safe],
        held=held,
    )
    return current, state


def _coded_object(
    context: PoolContext,
    attempt: AttemptRow,
    row: ObjectRow,
    upload: Upload,
    safe: Sequence[PartRow],
    held: dict[int, Part],
    own_digest: Sha256 | None,
    coder: FrameCoder,
) -> CodedObject:
    stream = new_stream(
        context.coded_arena,
        coder,
        attempt.request.part_size,
        sha256=own_digest,
        parts=len(safe),
    )
    return CodedObject(
        number=row.number,
        offset=row.offset,
        sha256=stream.sha256,
        upload=upload,
        size=sum(part.plain or 0 for part in safe),
        held=held,
        stream=stream,
        rows={part.number: part for part in safe},
        begun=True,
        ended=bool(safe) and safe[-1].last,
    )


def _agree(receipt: PartRow, part: Part | None) -> bool:
    return part is not None and (part.size, part.etag) == (receipt.size, receipt.etag)


def _finished(part: PartRow) -> Future[PartRow]:
    future: Future[PartRow] = Future()
    future.set_result(part)
    return future


def _begin_again(
    context: PoolContext, row: ObjectRow, key: str
) -> tuple[OpenObject | None, bytes | None]:
    """Clear what may lie under the object's key; the writer starts it anew."""
    for upload in list(context.store.uploads(key)):
        context.store.abort_upload(upload)
    _delete_object(context, key, None)
    return None, row.start_state


def _delete_object(context: PoolContext, key: str, record: FragmentObject | None) -> None:
    version = record.version_id if record else None
    if version is None:
        try:
            version = context.store.stat(key).version_id
        except ObjectNotFound:
            return
    context.store.delete(key, version_id=version)
