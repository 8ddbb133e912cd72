-- Finished artifacts by cache key: what a phase need not make again, and what it was made from.
CREATE TABLE artifacts (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT artifacts_pkey PRIMARY KEY,
    project_id bigint NOT NULL CONSTRAINT artifacts_project_id_fkey REFERENCES projects (id),
    kind text NOT NULL,
    key text NOT NULL,
    phase text NOT NULL,
    step bigint,
    bytes bigint NOT NULL,
    files int NOT NULL,
    path text NOT NULL,
    lineage jsonb NOT NULL,
    statistics jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT artifacts_project_id_kind_key_key UNIQUE (project_id, kind, key)
);

-- Checkpoints of a run, the deleted ones too.
CREATE TABLE checkpoints (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT checkpoints_pkey PRIMARY KEY,
    run_id bigint NOT NULL CONSTRAINT checkpoints_run_id_fkey REFERENCES runs (id) ON DELETE CASCADE,
    step bigint NOT NULL,
    tokens bigint,
    bytes bigint NOT NULL,
    files int NOT NULL,
    path text NOT NULL,
    state text NOT NULL CONSTRAINT checkpoints_state_check CHECK (state IN ('committed', 'deleted')),
    verified_at timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT checkpoints_run_id_step_key UNIQUE (run_id, step)
);

-- Scores: validation during training and evaluations of checkpoints.
CREATE TABLE evaluations (
    run_id bigint NOT NULL CONSTRAINT evaluations_run_id_fkey REFERENCES runs (id) ON DELETE CASCADE,
    attempt_id bigint NOT NULL CONSTRAINT evaluations_attempt_id_fkey REFERENCES attempts (id) ON DELETE CASCADE,
    step bigint NOT NULL,
    name text NOT NULL,
    value double precision NOT NULL,
    CONSTRAINT evaluations_pkey PRIMARY KEY (run_id, attempt_id, step, name)
);
