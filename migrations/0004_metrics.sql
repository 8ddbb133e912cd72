-- The catalogue of what a run measures.
CREATE TABLE series (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT series_pkey PRIMARY KEY,
    run_id bigint NOT NULL CONSTRAINT series_run_id_fkey REFERENCES runs (id) ON DELETE CASCADE,
    name text NOT NULL CONSTRAINT series_name_check CHECK (length(name) BETWEEN 1 AND 200),
    kind text NOT NULL CONSTRAINT series_kind_check CHECK (kind IN ('scalar', 'matrix')),
    matrix_rows int,
    matrix_columns int,
    -- Step of its first point.
    first_step bigint NOT NULL,
    CONSTRAINT series_run_id_name_key UNIQUE (run_id, name),
    CONSTRAINT series_shape_check CHECK ((kind = 'matrix') = (matrix_rows IS NOT NULL AND matrix_columns IS NOT NULL))
);

-- Scalars as they arrive: some steps of all series, in columns. Folded into pages when a page's steps are complete.
CREATE TABLE metric_chunks (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT metric_chunks_pkey PRIMARY KEY,
    attempt_id bigint NOT NULL CONSTRAINT metric_chunks_attempt_id_fkey REFERENCES attempts (id) ON DELETE CASCADE,
    first_step bigint NOT NULL,
    last_step bigint NOT NULL,
    points int NOT NULL,
    payload bytea NOT NULL,
    CONSTRAINT metric_chunks_steps_check CHECK (first_step <= last_step)
);
CREATE INDEX metric_chunks_attempt_id_idx ON metric_chunks (attempt_id, id);
ALTER TABLE metric_chunks ALTER COLUMN payload SET STORAGE EXTERNAL;

-- Pages: level 0 holds points of 1,024 steps, level L holds 1,024 buckets of 32^L steps each. Written once.
CREATE TABLE metric_pages (
    series_id bigint NOT NULL CONSTRAINT metric_pages_series_id_fkey REFERENCES series (id) ON DELETE CASCADE,
    attempt_id bigint NOT NULL CONSTRAINT metric_pages_attempt_id_fkey REFERENCES attempts (id) ON DELETE CASCADE,
    level smallint NOT NULL CONSTRAINT metric_pages_level_check CHECK (level BETWEEN 0 AND 8),
    page bigint NOT NULL CONSTRAINT metric_pages_page_check CHECK (page >= 0),
    points bigint NOT NULL,
    payload bytea NOT NULL,
    CONSTRAINT metric_pages_pkey PRIMARY KEY (series_id, level, attempt_id, page)
);
CREATE INDEX metric_pages_attempt_id_idx ON metric_pages (attempt_id, level, page);
ALTER TABLE metric_pages ALTER COLUMN payload SET STORAGE EXTERNAL;
