-- A run is one execution of a phase: job, phase and cache key. Its attempts are processes.
CREATE TABLE runs (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT runs_pkey PRIMARY KEY,
    job_id bigint NOT NULL CONSTRAINT runs_job_id_fkey REFERENCES jobs (id) ON DELETE CASCADE,
    -- `<job>.<phase>.<first 12 digits of the key>`.
    name text NOT NULL,
    phase text NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    state text NOT NULL CONSTRAINT runs_state_check
        CHECK (state IN ('pending', 'cached', 'running', 'stopped', 'succeeded', 'failed')),
    -- Floating-point operations per trained token, for the x-axis.
    flops_per_token double precision,
    created_at timestamptz NOT NULL,
    last_step bigint,
    last_tokens bigint,
    last_time double precision,
    -- What the phase is doing (spec's Progress), newest.
    progress jsonb,
    CONSTRAINT runs_job_id_name_key UNIQUE (job_id, name)
);
CREATE INDEX runs_name_idx ON runs (name);

-- One execution of an attempt. It supersedes the steps after `from_step` of all earlier ones.
CREATE TABLE attempts (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT attempts_pkey PRIMARY KEY,
    run_id bigint NOT NULL CONSTRAINT attempts_run_id_fkey REFERENCES runs (id) ON DELETE CASCADE,
    attempt int NOT NULL CONSTRAINT attempts_attempt_check CHECK (attempt > 0),
    execution int NOT NULL CONSTRAINT attempts_execution_check CHECK (execution > 0),
    from_step bigint NOT NULL CONSTRAINT attempts_from_step_check CHECK (from_step >= 0),
    started_at double precision NOT NULL,
    ended_at double precision,
    outcome text CONSTRAINT attempts_outcome_check CHECK (outcome IN ('stopped', 'completed', 'failed')),
    message text,
    last_step bigint,
    last_time double precision NOT NULL,
    -- All steps before this one are in pages; what comes late for them is in chunks until it is folded in.
    sealed_steps bigint NOT NULL DEFAULT 0,
    CONSTRAINT attempts_run_id_attempt_execution_key UNIQUE (run_id, attempt, execution)
);

-- How much of each writer's stream is durable.
CREATE TABLE writers (
    run_id bigint NOT NULL CONSTRAINT writers_run_id_fkey REFERENCES runs (id) ON DELETE CASCADE,
    writer text NOT NULL CONSTRAINT writers_writer_check CHECK (length(writer) <= 400),
    attempt_id bigint CONSTRAINT writers_attempt_id_fkey REFERENCES attempts (id) ON DELETE CASCADE,
    next_sequence bigint NOT NULL,
    CONSTRAINT writers_pkey PRIMARY KEY (run_id, writer)
);
