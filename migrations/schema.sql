-- The schema that the migrations make. Written by `cargo xtask gen`.

CREATE TABLE public.artifacts (
    id bigint NOT NULL,
    project_id bigint NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    phase text NOT NULL,
    step bigint,
    bytes bigint NOT NULL,
    files integer NOT NULL,
    path text NOT NULL,
    lineage jsonb NOT NULL,
    statistics jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL
);

ALTER TABLE public.artifacts ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.artifacts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.attempts (
    id bigint NOT NULL,
    run_id bigint NOT NULL,
    attempt integer NOT NULL,
    execution integer NOT NULL,
    from_step bigint NOT NULL,
    started_at double precision NOT NULL,
    ended_at double precision,
    outcome text,
    message text,
    last_step bigint,
    last_time double precision NOT NULL,
    sealed_steps bigint DEFAULT 0 NOT NULL,
    CONSTRAINT attempts_attempt_check CHECK ((attempt > 0)),
    CONSTRAINT attempts_execution_check CHECK ((execution > 0)),
    CONSTRAINT attempts_from_step_check CHECK ((from_step >= 0)),
    CONSTRAINT attempts_outcome_check CHECK ((outcome = ANY (ARRAY['stopped'::text, 'completed'::text, 'failed'::text])))
);

ALTER TABLE public.attempts ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.attempts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.checkpoints (
    id bigint NOT NULL,
    run_id bigint NOT NULL,
    step bigint NOT NULL,
    tokens bigint,
    bytes bigint NOT NULL,
    files integer NOT NULL,
    path text NOT NULL,
    state text NOT NULL,
    verified_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT checkpoints_state_check CHECK ((state = ANY (ARRAY['committed'::text, 'deleted'::text])))
);

ALTER TABLE public.checkpoints ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.checkpoints_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.evaluations (
    run_id bigint NOT NULL,
    attempt_id bigint NOT NULL,
    step bigint NOT NULL,
    name text NOT NULL,
    value double precision NOT NULL
);

CREATE TABLE public.events (
    id bigint NOT NULL,
    job_id bigint NOT NULL,
    run_id bigint,
    attempt_id bigint,
    key text NOT NULL,
    "time" double precision NOT NULL,
    kind text NOT NULL,
    severity text NOT NULL,
    step bigint,
    message text NOT NULL,
    CONSTRAINT events_severity_check CHECK ((severity = ANY (ARRAY['info'::text, 'warning'::text, 'error'::text])))
);

ALTER TABLE public.events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.idempotency_keys (
    principal text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    status smallint,
    location text,
    body bytea,
    CONSTRAINT idempotency_keys_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255)))
);

CREATE TABLE public.job_generations (
    job_id bigint NOT NULL,
    generation integer NOT NULL,
    submitted text NOT NULL,
    effective text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT job_generations_generation_check CHECK ((generation > 0))
);

CREATE TABLE public.jobs (
    id bigint NOT NULL,
    project_id bigint NOT NULL,
    name text NOT NULL,
    uid text NOT NULL,
    state text NOT NULL,
    message text,
    labels jsonb DEFAULT '{}'::jsonb NOT NULL,
    phases jsonb DEFAULT '[]'::jsonb NOT NULL,
    generation integer DEFAULT 0 NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    CONSTRAINT jobs_name_check CHECK (((length(name) >= 1) AND (length(name) <= 253))),
    CONSTRAINT jobs_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'queued'::text, 'running'::text, 'paused'::text, 'stopped'::text, 'cancelled'::text, 'succeeded'::text, 'failed'::text])))
);

ALTER TABLE public.jobs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.log_lines (
    id bigint NOT NULL,
    run_id bigint NOT NULL,
    attempt integer NOT NULL,
    rank integer NOT NULL,
    "position" bigint NOT NULL,
    "time" double precision NOT NULL,
    level text NOT NULL,
    text text NOT NULL,
    CONSTRAINT log_lines_level_check CHECK ((level = ANY (ARRAY['error'::text, 'warn'::text, 'info'::text, 'debug'::text])))
);

ALTER TABLE public.log_lines ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.log_lines_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.log_offsets (
    run_id bigint NOT NULL,
    attempt integer NOT NULL,
    rank integer NOT NULL,
    next_position bigint NOT NULL
);

CREATE TABLE public.matrices (
    series_id bigint NOT NULL,
    attempt_id bigint NOT NULL,
    step bigint NOT NULL,
    first_step bigint NOT NULL,
    row_statistics bytea NOT NULL,
    payload bytea NOT NULL,
    CONSTRAINT matrices_steps_check CHECK ((first_step <= step))
);
ALTER TABLE ONLY public.matrices ALTER COLUMN row_statistics SET STORAGE PLAIN;
ALTER TABLE ONLY public.matrices ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE TABLE public.metric_chunks (
    id bigint NOT NULL,
    attempt_id bigint NOT NULL,
    first_step bigint NOT NULL,
    last_step bigint NOT NULL,
    points integer NOT NULL,
    payload bytea NOT NULL,
    CONSTRAINT metric_chunks_steps_check CHECK ((first_step <= last_step))
);
ALTER TABLE ONLY public.metric_chunks ALTER COLUMN payload SET STORAGE EXTERNAL;

ALTER TABLE public.metric_chunks ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.metric_chunks_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.metric_pages (
    series_id bigint NOT NULL,
    attempt_id bigint NOT NULL,
    level smallint NOT NULL,
    page bigint NOT NULL,
    points bigint NOT NULL,
    payload bytea NOT NULL,
    CONSTRAINT metric_pages_level_check CHECK (((level >= 0) AND (level <= 8))),
    CONSTRAINT metric_pages_page_check CHECK ((page >= 0))
);
ALTER TABLE ONLY public.metric_pages ALTER COLUMN payload SET STORAGE EXTERNAL;

CREATE TABLE public.projects (
    id bigint NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT projects_name_check CHECK (((length(name) >= 1) AND (length(name) <= 63)))
);

ALTER TABLE public.projects ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.projects_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.runs (
    id bigint NOT NULL,
    job_id bigint NOT NULL,
    name text NOT NULL,
    phase text NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    state text NOT NULL,
    flops_per_token double precision,
    created_at timestamp with time zone NOT NULL,
    last_step bigint,
    last_tokens bigint,
    last_time double precision,
    progress jsonb,
    CONSTRAINT runs_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'cached'::text, 'running'::text, 'stopped'::text, 'succeeded'::text, 'failed'::text])))
);

ALTER TABLE public.runs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.runs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.series (
    id bigint NOT NULL,
    run_id bigint NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    matrix_rows integer,
    matrix_columns integer,
    first_step bigint NOT NULL,
    CONSTRAINT series_kind_check CHECK ((kind = ANY (ARRAY['scalar'::text, 'matrix'::text]))),
    CONSTRAINT series_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT series_shape_check CHECK (((kind = 'matrix'::text) = ((matrix_rows IS NOT NULL) AND (matrix_columns IS NOT NULL))))
);

ALTER TABLE public.series ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.series_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.tokens (
    id bigint NOT NULL,
    name text NOT NULL,
    digest bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT tokens_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100)))
);

ALTER TABLE public.tokens ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.tokens_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.writers (
    run_id bigint NOT NULL,
    writer text NOT NULL,
    attempt_id bigint,
    next_sequence bigint NOT NULL,
    CONSTRAINT writers_writer_check CHECK ((length(writer) <= 400))
);

ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_project_id_kind_key_key UNIQUE (project_id, kind, key);

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_run_id_attempt_execution_key UNIQUE (run_id, attempt, execution);

ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT checkpoints_run_id_step_key UNIQUE (run_id, step);

ALTER TABLE ONLY public.evaluations
    ADD CONSTRAINT evaluations_pkey PRIMARY KEY (run_id, attempt_id, step, name);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_job_id_key_key UNIQUE (job_id, key);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (principal, key);

ALTER TABLE ONLY public.job_generations
    ADD CONSTRAINT job_generations_pkey PRIMARY KEY (job_id, generation);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_project_id_name_key UNIQUE (project_id, name);

ALTER TABLE ONLY public.log_lines
    ADD CONSTRAINT log_lines_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.log_lines
    ADD CONSTRAINT log_lines_run_id_attempt_rank_position_key UNIQUE (run_id, attempt, rank, "position");

ALTER TABLE ONLY public.log_offsets
    ADD CONSTRAINT log_offsets_pkey PRIMARY KEY (run_id, attempt, rank);

ALTER TABLE ONLY public.matrices
    ADD CONSTRAINT matrices_pkey PRIMARY KEY (series_id, step, attempt_id);

ALTER TABLE ONLY public.metric_chunks
    ADD CONSTRAINT metric_chunks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.metric_pages
    ADD CONSTRAINT metric_pages_pkey PRIMARY KEY (series_id, level, attempt_id, page);

ALTER TABLE ONLY public.projects
    ADD CONSTRAINT projects_name_key UNIQUE (name);

ALTER TABLE ONLY public.projects
    ADD CONSTRAINT projects_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_job_id_name_key UNIQUE (job_id, name);

ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.series
    ADD CONSTRAINT series_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.series
    ADD CONSTRAINT series_run_id_name_key UNIQUE (run_id, name);

ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_digest_key UNIQUE (digest);

ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_name_key UNIQUE (name);

ALTER TABLE ONLY public.tokens
    ADD CONSTRAINT tokens_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.writers
    ADD CONSTRAINT writers_pkey PRIMARY KEY (run_id, writer);

CREATE INDEX events_job_id_idx ON public.events USING btree (job_id, id DESC);

CREATE INDEX events_job_id_time_idx ON public.events USING btree (job_id, "time" DESC, id DESC);

CREATE INDEX events_run_id_idx ON public.events USING btree (run_id, step) WHERE (run_id IS NOT NULL);

CREATE INDEX jobs_project_id_created_at_idx ON public.jobs USING btree (project_id, created_at DESC, id DESC);

CREATE INDEX log_lines_run_id_idx ON public.log_lines USING btree (run_id, id);

CREATE INDEX matrices_attempt_id_idx ON public.matrices USING btree (attempt_id);

CREATE INDEX metric_chunks_attempt_id_idx ON public.metric_chunks USING btree (attempt_id, id);

CREATE INDEX metric_pages_attempt_id_idx ON public.metric_pages USING btree (attempt_id, level, page);

CREATE INDEX runs_name_idx ON public.runs USING btree (name);

ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.checkpoints
    ADD CONSTRAINT checkpoints_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.evaluations
    ADD CONSTRAINT evaluations_attempt_id_fkey FOREIGN KEY (attempt_id) REFERENCES public.attempts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.evaluations
    ADD CONSTRAINT evaluations_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_attempt_id_fkey FOREIGN KEY (attempt_id) REFERENCES public.attempts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.job_generations
    ADD CONSTRAINT job_generations_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);

ALTER TABLE ONLY public.log_lines
    ADD CONSTRAINT log_lines_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.log_offsets
    ADD CONSTRAINT log_offsets_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.matrices
    ADD CONSTRAINT matrices_attempt_id_fkey FOREIGN KEY (attempt_id) REFERENCES public.attempts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.matrices
    ADD CONSTRAINT matrices_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.series(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.metric_chunks
    ADD CONSTRAINT metric_chunks_attempt_id_fkey FOREIGN KEY (attempt_id) REFERENCES public.attempts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.metric_pages
    ADD CONSTRAINT metric_pages_attempt_id_fkey FOREIGN KEY (attempt_id) REFERENCES public.attempts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.metric_pages
    ADD CONSTRAINT metric_pages_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.series(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.series
    ADD CONSTRAINT series_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.writers
    ADD CONSTRAINT writers_attempt_id_fkey FOREIGN KEY (attempt_id) REFERENCES public.attempts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.writers
    ADD CONSTRAINT writers_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.runs(id) ON DELETE CASCADE;
