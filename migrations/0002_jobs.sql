-- The history of a job. What is wanted of it is elsewhere (the local directory, the custom resource); this mirrors what is known.
CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT jobs_pkey PRIMARY KEY,
    project_id bigint NOT NULL CONSTRAINT jobs_project_id_fkey REFERENCES projects (id),
    name text NOT NULL CONSTRAINT jobs_name_check CHECK (length(name) BETWEEN 1 AND 253),
    -- Identity of the job behind the name: another job of the same name has another.
    uid text NOT NULL,
    state text NOT NULL CONSTRAINT jobs_state_check
        CHECK (state IN ('pending', 'queued', 'running', 'paused', 'stopped', 'cancelled', 'succeeded', 'failed')),
    message text,
    labels jsonb NOT NULL DEFAULT '{}',
    -- Status of each phase, in order, as its runner reported it.
    phases jsonb NOT NULL DEFAULT '[]',
    generation int NOT NULL DEFAULT 0,
    -- Grows with every change: the entity tag.
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT jobs_project_id_name_key UNIQUE (project_id, name)
);
CREATE INDEX jobs_project_id_created_at_idx ON jobs (project_id, created_at DESC, id DESC);

-- The manifests that a job had, oldest first.
CREATE TABLE job_generations (
    job_id bigint NOT NULL CONSTRAINT job_generations_job_id_fkey REFERENCES jobs (id) ON DELETE CASCADE,
    generation int NOT NULL CONSTRAINT job_generations_generation_check CHECK (generation > 0),
    submitted text NOT NULL,
    effective text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT job_generations_pkey PRIMARY KEY (job_id, generation)
);
