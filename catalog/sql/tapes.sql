-- What is known of every cartridge, one row each, by its barcode (by its media id where no barcode
-- is known). The same text runs in DuckDB, Athena and Trino; it needs `facts` and `images`.
--
-- An image that spans tapes counts on each of them; bytes are those on this tape alone, and null
-- when no image on it tells them. A stored image without a storage class has no objects of its own:
-- its bytes lie in a multiplexed tape file, which is an image too, and count there alone.
CREATE OR REPLACE VIEW tapes AS
WITH on_tape AS (
    SELECT
        t.tape,
        i.state,
        CASE
            WHEN i.state = 'stored' AND i.storage_class IS NULL THEN 0
            ELSE i.tape_bytes[t.n]
        END AS size_bytes
    FROM images i
    CROSS JOIN UNNEST(i.tapes) WITH ORDINALITY AS t (tape, n)
),
counted AS (
    SELECT
        tape,
        COUNT(*) AS images,
        COUNT(*) FILTER (WHERE state = 'stored') AS images_stored,
        COUNT(*) FILTER (WHERE state = 'skipped') AS images_skipped,
        COUNT(*) FILTER (WHERE state = 'failed') AS images_failed,
        COUNT(*) FILTER (WHERE state = 'damaged') AS images_damaged,
        COUNT(*) FILTER (WHERE state = 'expired') AS images_expired,
        COUNT(*) FILTER (WHERE state = 'erased') AS images_erased,
        COUNT(*) FILTER (WHERE state = 'deleted') AS images_deleted,
        SUM(size_bytes) AS size_bytes,
        SUM(size_bytes) FILTER (WHERE state = 'stored') AS stored_bytes
    FROM on_tape
    GROUP BY tape
),
events AS (
    SELECT
        t.tape,
        MAX(f.recorded_at) FILTER (WHERE f.kind = 'tape_read') AS last_read_at,
        MAX(f.recorded_at) FILTER (WHERE f.kind = 'tape_released') AS released_at
    FROM facts f
    CROSS JOIN UNNEST(f.tapes) WITH ORDINALITY AS t (tape, n)
    WHERE f.kind IN ('tape_read', 'tape_released')
    GROUP BY t.tape
)
SELECT
    COALESCE(c.tape, e.tape) AS barcode,
    COALESCE(c.images, 0) AS images,
    COALESCE(c.images_stored, 0) AS images_stored,
    COALESCE(c.images_skipped, 0) AS images_skipped,
    COALESCE(c.images_failed, 0) AS images_failed,
    COALESCE(c.images_damaged, 0) AS images_damaged,
    COALESCE(c.images_expired, 0) AS images_expired,
    COALESCE(c.images_erased, 0) AS images_erased,
    COALESCE(c.images_deleted, 0) AS images_deleted,
    c.size_bytes,
    c.stored_bytes,
    e.last_read_at,
    e.released_at,
    e.released_at IS NOT NULL AS released
FROM counted c
FULL OUTER JOIN events e ON e.tape = c.tape
