-- Lines that workers printed. They outlive the process and the pod.
CREATE TABLE log_lines (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT log_lines_pkey PRIMARY KEY,
    run_id bigint NOT NULL CONSTRAINT log_lines_run_id_fkey REFERENCES runs (id) ON DELETE CASCADE,
    attempt int NOT NULL,
    rank int NOT NULL,
    -- Position in the worker's log, in bytes: a line that is sent twice is kept once.
    position bigint NOT NULL,
    time double precision NOT NULL,
    level text NOT NULL CONSTRAINT log_lines_level_check CHECK (level IN ('error', 'warn', 'info', 'debug')),
    text text NOT NULL,
    CONSTRAINT log_lines_run_id_attempt_rank_position_key UNIQUE (run_id, attempt, rank, position)
);
CREATE INDEX log_lines_run_id_idx ON log_lines (run_id, id);

-- How much of each log is durable, in bytes.
CREATE TABLE log_offsets (
    run_id bigint NOT NULL CONSTRAINT log_offsets_run_id_fkey REFERENCES runs (id) ON DELETE CASCADE,
    attempt int NOT NULL,
    rank int NOT NULL,
    next_position bigint NOT NULL,
    CONSTRAINT log_offsets_pkey PRIMARY KEY (run_id, attempt, rank)
);
