"""Taking up an image that an earlier process left: the journal says what, the store says how far.

What the store lists is the truth about parts; the journal adds the digests' states. An object whose
state cannot be settled is begun again, from its own first byte: what came before it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from catalog.errors import CorruptObject, ObjectNotFound
from connector.pool import names
from connector.pool.attempts import AttemptRow, ObjectRow, ObjectState, PartRow
from connector.pool.context import PoolContext
from connector.pool.digest import Sha256
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
    done = [row.record for row in objects if row.state is ObjectState.DONE and row.record]
    state = None
    current: OpenObject | None = None
    for row in objects:
        if row.state is not ObjectState.DONE:
            settled = _settle(context, attempt, row)
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
    writer = ImageWriter(
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
    if current is not None and _was_ending(current, attempt):
        writer.cut()
    return writer


def _was_ending(current: OpenObject, attempt: AttemptRow) -> bool:
    """Whether the last part that is safe was the object's last: no other may follow a short one."""
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
    context.attempts.forget(attempt.token)


def _settle(
    context: PoolContext, attempt: AttemptRow, row: ObjectRow
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
        if stored.size == row.record.size and stored.crc64nvme == row.record.crc64nvme:
            return confirmed(row.record, stored)
        return _begin_again(context, row, key)
    if row.state is ObjectState.UPLOADING and row.upload_id:
        upload = Upload(key=key, upload_id=row.upload_id)
        try:
            listed = {part.number: part for part in context.store.parts(upload)}
        except ObjectNotFound:
            return _begin_again(context, row, key)
        return _continue_upload(context, attempt, row, upload, listed)
    return _begin_again(context, row, key)


def _continue_upload(
    context: PoolContext,
    attempt: AttemptRow,
    row: ObjectRow,
    upload: Upload,
    listed: dict[int, Part],
) -> tuple[OpenObject, bytes | None]:
    """Go on behind the longest run of parts that the journal and the store agree on."""
    receipts = context.attempts.parts(attempt.token, row.number)
    agreed = [part for part in receipts if _agree(part, listed.get(part.number))]
    safe = [part for at, part in enumerate(agreed, start=1) if part.number == at]
    own_digest: Sha256 | None = None
    state = row.start_state
    if safe:
        state = safe[-1].image_state
    if row.number:
        own_digest = Sha256.restore(safe[-1].object_state) if safe else Sha256()
        if own_digest is None:
            state = None
    for part in agreed:
        known = listed[part.number]
        listed[part.number] = Part(
            number=part.number, size=part.size, etag=known.etag, crc64nvme=part.crc64nvme
        )
    current = OpenObject(
        number=row.number,
        offset=row.offset,
        sha256=own_digest,
        upload=upload,
        size=sum(part.size for part in safe),
        sent=[_finished(part) for part in safe],
        held={n: part for n, part in listed.items() if n > len(safe)},
    )
    return current, state


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
