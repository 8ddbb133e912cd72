-- What happened to jobs and runs. The identity is the offset of live streams.
CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT events_pkey PRIMARY KEY,
    job_id bigint NOT NULL CONSTRAINT events_job_id_fkey REFERENCES jobs (id) ON DELETE CASCADE,
    run_id bigint CONSTRAINT events_run_id_fkey REFERENCES runs (id) ON DELETE CASCADE,
    attempt_id bigint CONSTRAINT events_attempt_id_fkey REFERENCES attempts (id) ON DELETE CASCADE,
    -- Whoever reports the same thing twice uses the same key.
    key text NOT NULL,
    time double precision NOT NULL,
    kind text NOT NULL,
    severity text NOT NULL CONSTRAINT events_severity_check CHECK (severity IN ('info', 'warning', 'error')),
    step bigint,
    message text NOT NULL,
    CONSTRAINT events_job_id_key_key UNIQUE (job_id, key)
);
CREATE INDEX events_job_id_idx ON events (job_id, id DESC);
CREATE INDEX events_run_id_idx ON events (run_id, step) WHERE run_id IS NOT NULL;
