-- A matrix of one step, or the mean of the steps from `first_step` to `step` once retention has thinned them.
CREATE TABLE matrices (
    series_id bigint NOT NULL CONSTRAINT matrices_series_id_fkey REFERENCES series (id) ON DELETE CASCADE,
    attempt_id bigint NOT NULL CONSTRAINT matrices_attempt_id_fkey REFERENCES attempts (id) ON DELETE CASCADE,
    step bigint NOT NULL,
    first_step bigint NOT NULL,
    -- Per row: maximum violation, mean, maximum, minimum; f32 little-endian, one reduction after the other.
    row_statistics bytea NOT NULL,
    payload bytea NOT NULL,
    CONSTRAINT matrices_pkey PRIMARY KEY (series_id, step, attempt_id),
    CONSTRAINT matrices_steps_check CHECK (first_step <= step)
);
CREATE INDEX matrices_attempt_id_idx ON matrices (attempt_id);
ALTER TABLE matrices ALTER COLUMN payload SET STORAGE EXTERNAL;
ALTER TABLE matrices ALTER COLUMN row_statistics SET STORAGE PLAIN;
