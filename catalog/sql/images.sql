-- The state of every image and copy now, one row each, from the facts in the order in which they
-- were committed. The same text runs in DuckDB, Athena and Trino; it needs a table or view `facts`.
--
-- state: what happened last to the stored image (stored, damaged, expired, erased, deleted); if it was
-- never stored, what the last attempt came to (skipped, failed). A later attempt that skips or fails
-- does not undo what is stored. A fact without a copy number is about the first copy.
--
-- `place` is a fact's place in the ledger: a commit has at most a million rows.
CREATE OR REPLACE VIEW images AS
WITH placed AS (
    SELECT f.*, f.sequence * 1000000 + f.row_index AS place
    FROM facts f
    WHERE f.image IS NOT NULL
),
latest AS (
    SELECT
        pool,
        image,
        COALESCE(copy_number, 1) AS copy_number,
        max_by(kind, place)
            FILTER (WHERE kind IN ('stored', 'damaged', 'expired', 'erased', 'deleted')) AS outcome,
        max_by(kind, place) FILTER (WHERE kind IN ('skipped', 'failed')) AS attempt,
        max_by(COALESCE(reason, ''), place)
            FILTER (WHERE kind IN ('stored', 'damaged', 'expired', 'erased', 'deleted')) AS outcome_reason,
        max_by(COALESCE(reason, ''), place)
            FILTER (WHERE kind IN ('skipped', 'failed')) AS attempt_reason,
        max_by(problems, place) AS problems,
        max_by(product, place) FILTER (WHERE product IS NOT NULL) AS product,
        max_by(client, place) FILTER (WHERE client IS NOT NULL) AS client,
        max_by(policy, place) FILTER (WHERE policy IS NOT NULL) AS policy,
        max_by(schedule, place) FILTER (WHERE schedule IS NOT NULL) AS schedule,
        max_by(schedule_type, place) FILTER (WHERE schedule_type IS NOT NULL) AS schedule_type,
        max_by(backup_time, place) FILTER (WHERE backup_time IS NOT NULL) AS backup_time,
        max_by(expires_at, place) FILTER (WHERE expires_at IS NOT NULL) AS expires_at,
        max_by(expires_infinite, place)
            FILTER (WHERE expires_infinite IS NOT NULL) AS expires_infinite,
        max_by(size_bytes, place) FILTER (WHERE kind = 'stored') AS stored_bytes,
        max_by(size_bytes, place) FILTER (WHERE size_bytes IS NOT NULL) AS known_bytes,
        max_by(sha256, place) FILTER (WHERE kind = 'stored') AS stored_sha256,
        max_by(sha256, place) FILTER (WHERE sha256 IS NOT NULL) AS known_sha256,
        max_by(tapes, place) FILTER (WHERE kind = 'stored') AS stored_tapes,
        max_by(tape_bytes, place) FILTER (WHERE kind = 'stored') AS stored_tape_bytes,
        max_by(tapes, place) AS known_tapes,
        max_by(tape_bytes, place) AS known_tape_bytes,
        max_by(manifest_key, place) FILTER (WHERE manifest_key IS NOT NULL) AS manifest_key,
        max_by(fragments, place) FILTER (WHERE kind = 'stored') AS stored_fragments,
        max_by(fragments, place) AS known_fragments,
        max_by(storage_class, place)
            FILTER (WHERE kind NOT IN ('skipped', 'failed') AND storage_class IS NOT NULL)
            AS storage_class,
        max_by(lock_mode, place)
            FILTER (WHERE kind NOT IN ('skipped', 'failed') AND lock_mode IS NOT NULL)
            AS lock_mode,
        max_by(lock_until, place)
            FILTER (WHERE kind NOT IN ('skipped', 'failed') AND lock_until IS NOT NULL)
            AS lock_until,
        max_by(
            CASE kind WHEN 'hold_placed' THEN TRUE WHEN 'hold_released' THEN FALSE ELSE hold END,
            place
        ) FILTER (WHERE kind IN ('hold_placed', 'hold_released') OR hold IS NOT NULL) AS hold,
        max_by(recorded_at, place) FILTER (WHERE kind = 'stored') AS stored_at,
        max_by(recorded_at, place) FILTER (WHERE kind = 'verified') AS verified_at,
        max_by(recorded_at, place) FILTER (WHERE kind = 'recalled') AS recalled_at,
        max_by(recorded_at, place) FILTER (WHERE kind = 'restored') AS restored_at,
        MAX(place) FILTER (WHERE kind = 'stored') AS stored_place,
        MAX(place) FILTER (WHERE kind = 'verified') AS verified_place,
        max_by(recorded_at, place) AS last_fact_at,
        COUNT(*) AS facts
    FROM placed
    GROUP BY pool, image, COALESCE(copy_number, 1)
)
SELECT
    pool,
    image,
    copy_number,
    COALESCE(outcome, attempt, 'unknown') AS state,
    NULLIF(COALESCE(outcome_reason, attempt_reason), '') AS reason,
    problems,
    product,
    client,
    policy,
    schedule,
    schedule_type,
    backup_time,
    CASE WHEN expires_infinite THEN NULL ELSE expires_at END AS expires_at,
    expires_infinite,
    COALESCE(stored_bytes, known_bytes) AS size_bytes,
    COALESCE(stored_sha256, known_sha256) AS sha256,
    COALESCE(stored_tapes, known_tapes) AS tapes,
    CASE WHEN stored_tapes IS NULL THEN known_tape_bytes ELSE stored_tape_bytes END AS tape_bytes,
    manifest_key,
    COALESCE(stored_fragments, known_fragments) AS fragments,
    storage_class,
    lock_mode,
    lock_until,
    COALESCE(hold, FALSE) AS hold,
    stored_at,
    CASE WHEN stored_place IS NULL OR verified_place > stored_place THEN verified_at END
        AS verified_at,
    recalled_at,
    restored_at,
    last_fact_at,
    facts
FROM latest
